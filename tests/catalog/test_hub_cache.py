"""The Hugging Face cache: which files are served, and under which names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir

from app.entities.launch import LaunchSettings
from app.errors import ModelNotFound
from tests.helpers.builders import GGUF_BYTES, a_gguf
from workers.catalog.catalog import Catalog


def cached(
    cache: Path, repo: str, *files: str, revision: str = "abc", main: str | None = "abc", mtime: int = 1
) -> Path:
    """Writes files in huggingface_hub's layout; returns the snapshot's folder."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / revision
    for file in files:
        blob = a_gguf(folder / "blobs" / f"{revision}{file.replace('/', '_')}")
        os.utime(blob, (mtime, mtime))
        link = snapshot / file
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    if main is not None:
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(main)
    return snapshot


def catalog(cache: Path) -> Catalog:
    return Catalog([], LaunchSettings(), hub_cache=cache)


def names(cache: Path) -> list[str]:
    return [model.name for model in catalog(cache).models()]


def test_a_missing_cache_is_empty_without_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    assert names(tmp_path / "nowhere") == []
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ("Foo-Q4_K_M.gguf Foo-UD-Q4_K_XL.gguf foo-q8_0.gguf", "u/Foo:Q4_K_M u/Foo:Q8_0 u/Foo:UD-Q4_K_XL"),
        ("a-Q4_0.gguf b-Q4_0.gguf c-Q8_0.gguf", "u/Foo:Q8_0 u/Foo:a-Q4_0 u/Foo:b-Q4_0"),
        ("foo.gguf README.md", "u/Foo:foo"),
        ("a/x.gguf b/x.gguf", "u/Foo:b/x u/Foo:x"),
        ("Q4_K_M/F-Q4_K_M-00001-of-00002.gguf Q4_K_M/F-Q4_K_M-00002-of-00002.gguf", "u/Foo:Q4_K_M"),
    ],
)
def test_a_file_is_named_by_its_repository_and_quantization(tmp_path: Path, files: str, expected: str):
    cached(tmp_path, "u/Foo", *files.split())
    assert names(tmp_path) == expected.split()


@pytest.mark.parametrize(
    ("requested", "name"),
    [
        ("u/Foo:Q4_K_M", "u/Foo:Q4_K_M"),
        ("U/foo:q4_k_m", "u/Foo:Q4_K_M"),
        ("u/Foo", "u/Foo:Q4_K_M"),
        ("u/Foo:Foo-v2-Q8_0.gguf", "u/Foo:Q8_0"),
        ("u/Foo:foo-V2-q8_0.GGUF", "u/Foo:Q8_0"),
        ("u/Foo:Foo-v2-Q8_0", "u/Foo:Q8_0"),
        ("u/Foo:v2-Q8_0", "u/Foo:Q8_0"),  # the original's *VARIANT.gguf
        ("u/Foo:Q4_K_XL", "u/Foo:UD-Q4_K_XL"),
        ("u/Foo:0", "u/Foo:Q8_0"),
        ("u/Foo:8_0", None),
        ("u/Foo:Q5_K_M", None),
        ("u/Foo:", None),
        ("u/Foo:Q4_K_M:", None),
        ("Foo", None),
        ("../Foo:Q4_K_M", None),
    ],
)
def test_a_lookup_accepts_the_originals_syntax(tmp_path: Path, requested: str, name: str | None):
    cached(tmp_path, "u/Foo", "Foo-v2-Q4_K_M.gguf", "Foo-v2-Q8_0.gguf", "Foo-v2-UD-Q4_K_XL.gguf")
    if name is None:
        with pytest.raises(ModelNotFound):
            catalog(tmp_path).find(requested)
    else:
        assert catalog(tmp_path).find(requested).name == name


def test_an_exact_name_takes_precedence_over_one_that_differs_only_in_case(tmp_path: Path):
    cached(tmp_path, "u/Foo", "a-Q8_0.gguf")
    cached(tmp_path, "U/foo", "b-Q8_0.gguf")
    assert [catalog(tmp_path).find(name).name for name in ("u/Foo:Q8_0", "U/foo:Q8_0")] == ["u/Foo:Q8_0", "U/foo:Q8_0"]


def test_a_repository_without_q4_k_m_means_its_first_file(tmp_path: Path):
    cached(tmp_path, "u/Foo", "Foo-Q8_0.gguf", "Foo-Q5_K_M.gguf")
    assert catalog(tmp_path).find("u/Foo").name == "u/Foo:Q5_K_M"


def test_an_exact_quantization_takes_precedence_over_one_with_the_same_ending(tmp_path: Path):
    cached(tmp_path, "u/Foo", "A-UD-Q4_K_M.gguf", "B-Q4_K_M.gguf")
    assert catalog(tmp_path).find("u/foo:q4_k_m").name == "u/Foo:Q4_K_M"


def test_the_path_is_in_the_snapshot_where_the_parts_have_their_names(tmp_path: Path):
    snapshot = cached(tmp_path, "u/Foo", "F-Q4_0-00001-of-00002.gguf", "F-Q4_0-00002-of-00002.gguf", "mmproj-F16.gguf")
    model = catalog(tmp_path).find("u/Foo")
    assert model.path == str(snapshot / "F-Q4_0-00001-of-00002.gguf")
    assert model.launch.mmproj == str(snapshot / "mmproj-F16.gguf")
    assert model.size_bytes == 3 * GGUF_BYTES


@pytest.mark.parametrize(("main", "expected"), [("old", "old"), ("new", "new"), (None, "new"), ("gone", "new")])
def test_a_file_of_several_revisions_is_that_of_main_or_the_last_one(tmp_path: Path, main: str | None, expected: str):
    cached(tmp_path, "u/Foo", "F-Q8_0.gguf", revision="new", main=main, mtime=2)
    cached(tmp_path, "u/Foo", "F-Q8_0.gguf", revision="old", main=main, mtime=1)
    (model,) = catalog(tmp_path).models()
    assert Path(model.path).parent.name == expected


def test_a_newer_revision_with_another_file_takes_none_away(tmp_path: Path):
    """A pull of one quantization used to hide those that were downloaded before its repository changed."""
    cached(tmp_path, "u/Foo", "F-Q8_0.gguf", revision="old", mtime=1)
    cached(tmp_path, "u/Foo", "F-Q4_0.gguf", revision="new", main="new", mtime=2)
    assert names(tmp_path) == ["u/Foo:Q4_0", "u/Foo:Q8_0"]


def test_the_parts_of_a_model_are_of_one_revision(tmp_path: Path):
    first, second = "F-Q4_0-00001-of-00002.gguf", "F-Q4_0-00002-of-00002.gguf"
    cached(tmp_path, "u/Foo", first, second, revision="old", mtime=1)
    cached(tmp_path, "u/Foo", first, revision="new", main="new", mtime=2)
    assert catalog(tmp_path).find("u/Foo").problem == f"part 2 of 2 is missing: {second}"


def test_an_incomplete_download_is_not_listed(tmp_path: Path):
    snapshot = cached(tmp_path, "u/Foo", "F-Q4_0.gguf", "F-Q8_0.gguf")
    (snapshot / "F-Q8_0.gguf").resolve().unlink()
    (tmp_path / "models--u--Foo" / "blobs" / "def.incomplete").write_bytes(b"GGUF")
    assert names(tmp_path) == ["u/Foo:Q4_0"]


def test_a_first_download_that_runs_is_no_fault_of_the_cache(tmp_path: Path):
    blob = tmp_path / "models--u--Foo" / "blobs" / "def.incomplete"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"GGUF")
    assert (names(tmp_path), catalog(tmp_path).warnings) == ([], ())


def test_a_missing_part_breaks_a_split_model(tmp_path: Path):
    snapshot = cached(tmp_path, "u/Foo", "F-Q4_0-00001-of-00002.gguf", "F-Q4_0-00002-of-00002.gguf")
    (snapshot / "F-Q4_0-00002-of-00002.gguf").unlink()
    assert catalog(tmp_path).find("u/Foo").problem == "part 2 of 2 is missing: F-Q4_0-00002-of-00002.gguf"


def test_a_problem_with_one_repository_is_logged_once_and_affects_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    cached(tmp_path, "u/Foo", "F-Q4_0.gguf")
    (tmp_path / "models--u--bar").mkdir()
    (tmp_path / "models--u--file").write_text("")
    (tmp_path / "datasets--u--data" / "snapshots" / "abc").mkdir(parents=True)
    a_gguf(tmp_path / "datasets--u--data" / "snapshots" / "abc" / "data.gguf")
    found = catalog(tmp_path)
    found.reload()
    assert [model.name for model in found.models()] == ["u/Foo:Q4_0"]
    assert caplog.text.count("models--u--bar") == caplog.text.count("models--u--file") == 1


def test_the_same_files_are_found_as_by_huggingface_hub(tmp_path: Path):
    """Fails if a version of huggingface_hub changes the layout."""
    cached(tmp_path, "u/Foo", "F-Q4_0.gguf", "sub/F-Q8_0.gguf")
    cached(tmp_path, "gpt2", "gpt2-F16.gguf")
    expected = {
        str(file.file_path)
        for repo in scan_cache_dir(tmp_path).repos
        for revision in repo.revisions
        for file in revision.files
        if "main" in revision.refs
    }
    assert {model.path for model in catalog(tmp_path).models()} == expected


@pytest.mark.timeout(20)
def test_a_pipe_in_the_place_of_a_reference_is_not_waited_for(tmp_path: Path):
    cached(tmp_path, "u/Foo", "F-Q4_0.gguf", main=None)
    ref = tmp_path / "models--u--Foo" / "refs" / "main"
    ref.parent.mkdir(exist_ok=True)
    os.mkfifo(ref)
    assert names(tmp_path) == ["u/Foo:Q4_0"]
