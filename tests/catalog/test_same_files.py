"""The same file in several places is one model with several names."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from app.entities.key import ApiKey
from app.entities.launch import LaunchSettings
from app.entities.model import ModelSource
from app.routes.peer_models import may_use
from tests.catalog.test_hub_cache import cached
from tests.helpers.builders import a_gguf
from tests.helpers.ollama_models import LIBRARY, a_manifest, a_projector
from workers.catalog.catalog import Catalog, ConfiguredModel
from workers.catalog.other_programs import ProgramFolder


def catalog(home: Path, *entries: ConfiguredModel) -> Catalog:
    (home / "own").mkdir(exist_ok=True)
    return Catalog(
        [home / "own"],
        LaunchSettings(),
        hub_cache=home / "hub",
        entries=entries,
        lm_studio=[ProgramFolder(str(home / "lms"))],
        ollama=[ProgramFolder(str(home / "ollama"))],
    )


def listed(catalog: Catalog) -> dict[str, tuple[str, ...]]:
    return {model.name: model.aliases for model in catalog.models()}


def in_hub(home: Path, content: bytes, file: str = "Foo-Q4_K_M.gguf") -> Path:
    """The file in the Hugging Face cache, whose blob is named by its digest."""
    link = cached(home / "hub", "u/Foo-GGUF", file) / file
    blob = link.resolve()
    digest = blob.with_name(hashlib.sha256(content).hexdigest())
    blob.unlink()
    digest.write_bytes(content)
    link.unlink()
    link.symlink_to(os.path.relpath(digest, link.parent))
    return digest


def test_a_hard_link_of_another_program_is_an_alias(tmp_path: Path):
    content = a_gguf(tmp_path / "x.gguf").read_bytes()
    blob = in_hub(tmp_path, content)
    link = tmp_path / "lms" / "imported" / "Foo" / "Foo-Q4_K_M.gguf"
    link.parent.mkdir(parents=True)
    link.hardlink_to(blob)
    found = catalog(tmp_path)
    assert listed(found) == {"u/Foo-GGUF:Q4_K_M": ("imported/Foo:Q4_K_M",)}
    assert {found.find(name).name for name in ("imported/foo", "imported/Foo:Foo-Q4_K_M.gguf")} == {"u/Foo-GGUF:Q4_K_M"}
    assert found.find("u/Foo-GGUF").source is ModelSource.HUGGING_FACE
    assert found.warnings == ()


def test_a_copy_with_the_same_digest_is_an_alias(tmp_path: Path):
    content = a_gguf(tmp_path / "x.gguf").read_bytes()
    in_hub(tmp_path, content)
    a_manifest(tmp_path / "ollama", f"{LIBRARY}/foo/7b", model=content)
    assert listed(catalog(tmp_path)) == {"u/Foo-GGUF:Q4_K_M": ("foo:7b",)}


def test_a_copy_under_the_same_name_and_of_the_same_size_is_the_same_model(tmp_path: Path):
    cached(tmp_path / "hub", "u/Foo-GGUF", "Foo-Q4_K_M.gguf")
    a_gguf(tmp_path / "lms" / "u" / "Foo-GGUF" / "Foo-Q4_K_M.gguf")
    found = catalog(tmp_path)
    assert listed(found) == {"u/Foo-GGUF:Q4_K_M": ()} and found.warnings == ()


def test_a_copy_of_another_size_is_a_warning(tmp_path: Path):
    cached(tmp_path / "hub", "u/Foo-GGUF", "Foo-Q4_K_M.gguf")
    a_gguf(tmp_path / "lms" / "u" / "Foo-GGUF" / "Foo-Q4_K_M.gguf", size_bytes=1000)
    found = catalog(tmp_path)
    assert set(listed(found)) == {"u/Foo-GGUF:Q4_K_M", "u/Foo-GGUF:Foo-Q4_K_M"}
    assert "is listed as u/Foo-GGUF:Foo-Q4_K_M" in " ".join(found.warnings)


def test_two_links_in_a_folder_are_one_model(tmp_path: Path):
    a_gguf(tmp_path / "own" / "b.gguf")
    (tmp_path / "own" / "a.gguf").symlink_to("b.gguf")
    found = catalog(tmp_path)
    assert listed(found) == {"a": ("b",)}
    assert found.find("b").name == found.find("b.gguf").name == "a"


def test_two_models_of_ollama_with_one_file_are_one_model(tmp_path: Path):
    content = a_gguf(tmp_path / "x.gguf").read_bytes()
    for tag in ("7b", "latest", "7b-q4_K_M"):
        a_manifest(tmp_path / "ollama", f"{LIBRARY}/foo/{tag}", model=content)
    found = catalog(tmp_path)
    assert listed(found) == {"foo:7b": ("foo:7b-q4_K_M", "foo")}
    assert {found.find(name).name for name in ("foo", "foo:latest", "foo:7b-Q4_K_M")} == {"foo:7b"}


def test_the_projector_comes_from_the_place_that_has_one(tmp_path: Path):
    content = a_gguf(tmp_path / "x.gguf").read_bytes()
    in_hub(tmp_path, content)
    a_manifest(tmp_path / "ollama", f"{LIBRARY}/foo/7b", model=content, projector=a_projector())
    assert catalog(tmp_path).find("foo:7b").launch.mmproj


def test_a_broken_copy_does_not_stand_for_a_good_one(tmp_path: Path):
    broken = cached(tmp_path / "hub", "u/Foo-GGUF", "Foo-Q4_K_M.gguf") / "Foo-Q4_K_M.gguf"
    broken.write_bytes(bytes(broken.stat().st_size))
    a_gguf(tmp_path / "lms" / "u" / "Foo-GGUF" / "Foo-Q4_K_M.gguf")
    assert [bool(model.problem) for model in catalog(tmp_path).models()] == [False, True]


def test_the_names_of_a_configured_file_are_names_of_its_entry(tmp_path: Path):
    content = a_gguf(tmp_path / "x.gguf").read_bytes()
    in_hub(tmp_path, content)
    a_manifest(tmp_path / "ollama", f"{LIBRARY}/foo/7b", model=content)
    entry = ConfiguredModel("mine", LaunchSettings(), repo="u/Foo-GGUF:Q4_K_M")
    found = catalog(tmp_path, entry)
    assert list(listed(found)) == ["mine"]
    assert {found.find(name).name for name in ("foo:7b", "u/Foo-GGUF", "u/Foo-GGUF:Q4_K_M")} == {"mine"}


def test_an_alias_takes_no_other_models_name_away(tmp_path: Path):
    """The link is found first, under the name of another model in the same folder."""
    content = a_gguf(tmp_path / "x.gguf").read_bytes()
    a_manifest(tmp_path / "ollama", f"{LIBRARY}/foo/7b", model=content)
    a_manifest(tmp_path / "ollama", f"{LIBRARY}/foo/7c", model=content)
    own = ConfiguredModel("foo:7c", LaunchSettings(), path=a_gguf(tmp_path / "other.gguf", size_bytes=999))
    found = catalog(tmp_path, own)
    assert (listed(found)["foo:7b"], found.find("foo:7c").size_bytes) == ((), 999)


def test_a_key_may_use_the_model_by_any_of_its_names(tmp_path: Path):
    content = a_gguf(tmp_path / "x.gguf").read_bytes()
    in_hub(tmp_path, content)
    a_manifest(tmp_path / "ollama", f"{LIBRARY}/foo/7b", model=content)
    model = catalog(tmp_path).find("foo:7b")
    keys = [ApiKey("k", "0" * 64, models=(glob,)) for glob in ("foo:*", "u/*", "bar*")]
    assert [may_use(key, model) for key in keys] == [True, True, False]
