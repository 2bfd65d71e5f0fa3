"""Ollama's models: which are served, under which names, and what a store that is damaged or not ours does to a scan."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.entities.launch import LaunchSettings
from app.entities.model import ModelSource
from app.errors import ModelNotFound
from tests.helpers.builders import a_gguf
from tests.helpers.ollama_models import (
    ADAPTER,
    LIBRARY,
    a_blob,
    a_manifest,
    a_manifest_file,
    a_projector,
    gguf_bytes,
)
from workers.catalog.catalog import Catalog
from workers.catalog.ollama_manifest import MAX_MANIFEST_BYTES
from workers.catalog.ollama_store import HINT, ollama_folders
from workers.catalog.other_programs import ProgramFolder


def catalog(store: Path, *folders: Path, is_configured: bool = False) -> Catalog:
    return Catalog(folders, LaunchSettings(), ollama=[ProgramFolder(str(store), is_configured)])


def names(store: Path, *folders: Path) -> list[str]:
    return [model.name for model in catalog(store, *folders).models()]


def blob_of(store: Path, content: bytes) -> str:
    return str(store / "blobs" / a_blob(store, content).replace(":", "-"))


# --- names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "listed", "others"),
    [
        (
            f"{LIBRARY}/llama3.2/3b",
            "llama3.2:3b",
            "LLAMA3.2:3b library/llama3.2:3b registry.ollama.ai/library/llama3.2:3b",
        ),
        (f"{LIBRARY}/llama3.2/latest", "llama3.2", "llama3.2:latest library/llama3.2 ollama.com/library/llama3.2"),
        ("ollama.com/library/qwen3/8b", "qwen3:8b", "registry.ollama.ai/library/qwen3:8b"),
        ("registry.ollama.ai/ann/mine/latest", "ann/mine", "ann/mine:latest registry.ollama.ai/ann/mine:latest"),
        (
            "hf.co/unsloth/Qwen3-8B-GGUF/Q4_K_M",
            "hf.co/unsloth/Qwen3-8B-GGUF:Q4_K_M",
            "huggingface.co/unsloth/Qwen3-8B-GGUF:q4_k_m unsloth/qwen3-8b-gguf:Q4_K_M",
        ),
        ("hub.example:5000/team/x/v1", "hub.example:5000/team/x:v1", "hub.example:5000/team/X:v1"),
    ],
)
def test_a_model_is_found_by_the_names_that_ollama_gives_it(tmp_path: Path, path: str, listed: str, others: str):
    a_manifest(tmp_path, path, model=gguf_bytes())
    found = catalog(tmp_path)
    assert [model.name for model in found.models()] == [listed]
    assert {found.find(name).name for name in others.split()} == {listed}


@pytest.mark.parametrize("name", ["llama3.2", "llama3.2:1b", "team/x:v1", "sha256", "../llama3.2:3b"])
def test_no_other_name_finds_it(tmp_path: Path, name: str):
    a_manifest(tmp_path, f"{LIBRARY}/llama3.2/3b", model=gguf_bytes())
    a_manifest(tmp_path, "hub.example/team/x/v1", model=gguf_bytes(name="b"))
    with pytest.raises(ModelNotFound):
        catalog(tmp_path).find(name)


def test_a_file_of_ones_own_keeps_its_name(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    a_gguf(tmp_path / "own" / "mine.gguf")
    a_manifest(tmp_path / "store", f"{LIBRARY}/mine/latest", model=gguf_bytes())
    found = catalog(tmp_path / "store", tmp_path / "own")
    assert [(model.name, model.source) for model in found.models()] == [
        ("mine", ModelSource.FILE),
        ("mine:latest", ModelSource.OLLAMA),
    ]
    assert "is listed as mine:latest" in caplog.text


def test_a_name_in_both_folders_of_manifests_is_that_of_the_newer_one(tmp_path: Path):
    a_manifest(tmp_path, f"{LIBRARY}/x/1b", model=gguf_bytes(name="old"))
    a_manifest(tmp_path, "ollama.com/library/X/1b", root="manifests-v2", model=gguf_bytes(name="new"))
    assert catalog(tmp_path).find("x:1b").path == blob_of(tmp_path, gguf_bytes(name="new"))


def test_a_file_is_listed_under_the_shortest_kind_of_its_names(tmp_path: Path):
    """By path, hf.co and a registry of one's own come before Ollama's: nobody found llama3.2 in the list."""
    for path in ("hf.co/u/Foo-GGUF/Q8_0", "a.example/team/x/v1", "registry.ollama.ai/ann/x/v2", f"{LIBRARY}/x/1b"):
        a_manifest(tmp_path, path, model=gguf_bytes())
    [model] = catalog(tmp_path).models()
    assert (model.name, model.aliases[0]) == ("x:1b", "ann/x:v2")


def test_of_a_list_of_manifests_the_one_for_llama_cpp_is_used(tmp_path: Path):
    layer = {"mediaType": "application/vnd.ollama.image.model"}
    manifests = [
        {"runner": runner, "format": form, "digest": a_blob(tmp_path, f'{{"layers": [{layers}]}}'.encode())}
        for runner, form, layers in (
            ("mlx", "safetensors", ""),
            ("ggml", "gguf", f'{{"mediaType": "{layer["mediaType"]}", "digest": "{"sha256:" + "0" * 64}"}}'),
            (
                "llamacpp",
                "gguf",
                f'{{"mediaType": "{layer["mediaType"]}", "digest": "{a_blob(tmp_path, gguf_bytes())}"}}',
            ),
        )
    ]
    a_manifest_file(tmp_path, "ollama.com/library/x/1b", {"manifests": manifests}, root="manifests-v2")
    assert catalog(tmp_path).find("x:1b").path == blob_of(tmp_path, gguf_bytes())


# --- files ---------------------------------------------------------------------------------------------


def test_the_layers_of_a_manifest_are_what_llama_server_gets(tmp_path: Path):
    model, projector, adapter = gguf_bytes(), a_projector(), gguf_bytes(ADAPTER)
    layers = {
        "license": b"MIT",
        "model": model,
        "projector": projector,
        "adapter": adapter,
        "template": b"{{ .Prompt }}",
    }
    a_manifest(tmp_path, f"{LIBRARY}/x/1b", **layers)
    found = catalog(tmp_path).find("x:1b")
    assert (found.path, found.launch.mmproj) == (blob_of(tmp_path, model), blob_of(tmp_path, projector))
    assert found.launch.args == ("--lora", blob_of(tmp_path, adapter))
    assert (found.size_bytes, found.problem, found.source) == (len(model) + len(projector), "", ModelSource.OLLAMA)


def test_a_model_with_an_adapter_is_another_model(tmp_path: Path):
    a_manifest(tmp_path, f"{LIBRARY}/a/tuned", model=gguf_bytes(), adapter=gguf_bytes(ADAPTER))
    a_manifest(tmp_path, f"{LIBRARY}/b/plain", model=gguf_bytes())
    assert {model.name: len(model.launch.args) for model in catalog(tmp_path).models()} == {"a:tuned": 2, "b:plain": 0}


@pytest.mark.parametrize("layers", [{}, {"license": b"MIT"}, {"tensor": gguf_bytes()}])
def test_what_is_in_no_gguf_file_is_left_out(
    tmp_path: Path, layers: dict[str, bytes], caplog: pytest.LogCaptureFixture
):
    """Models in the cloud, and those for MLX."""
    a_manifest(tmp_path, f"{LIBRARY}/x/1b", **layers)
    assert names(tmp_path) == [] and caplog.text == ""


def test_a_file_that_is_missing_or_of_another_kind_breaks_its_model_alone(tmp_path: Path):
    a_manifest(tmp_path, f"{LIBRARY}/gone/1b", model=gguf_bytes(name="gone"))
    os.unlink(blob_of(tmp_path, gguf_bytes(name="gone")))
    a_manifest(tmp_path, f"{LIBRARY}/adapter/1b", model=gguf_bytes(ADAPTER))
    a_manifest(tmp_path, f"{LIBRARY}/swapped/1b", model=gguf_bytes(), projector=gguf_bytes())
    a_manifest(tmp_path, f"{LIBRARY}/text/1b", model=b"none")
    a_manifest(tmp_path, f"{LIBRARY}/good/1b", model=gguf_bytes())
    problems = {model.name: model.problem.partition(" ")[2] for model in catalog(tmp_path).models()}
    assert problems.pop("good:1b") == ""
    assert list(problems) == ["adapter:1b", "gone:1b", "swapped:1b", "text:1b"] and all(problems.values())


def test_a_missing_file_is_ollamas_to_download(tmp_path: Path):
    """Also while it does: it writes BLOB-partial, and the manifest of the last pull stays."""
    a_manifest(tmp_path, f"{LIBRARY}/gone/1b", model=gguf_bytes())
    blob = blob_of(tmp_path, gguf_bytes())
    os.rename(blob, f"{blob}-partial")
    assert catalog(tmp_path).find("gone:1b").problem == (
        f"{os.path.basename(blob)[:19]}... is missing in {tmp_path}/blobs: "
        "`ollama pull gone:1b` downloads it, or resumes that"
    )


# --- a store that is not ours --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "digest",
    [
        "../../../etc/passwd",
        "sha256:../../etc/passwd",
        "sha256-" + "g" * 64,
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 64 + "/..",
        "sha256:" + "a" * 64 + "\n",
        "sha512:" + "a" * 64,
        "",
        None,
        7,
        ["sha256:" + "a" * 64],
    ],
)
def test_a_digest_that_is_none_leads_nowhere(tmp_path: Path, digest: object, caplog: pytest.LogCaptureFixture):
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": digest}
    path = a_manifest_file(tmp_path, f"{LIBRARY}/x/1b", {"layers": [layer]})
    assert names(tmp_path) == []
    assert caplog.messages == [f"{path} is not used: it has a layer without a SHA-256 digest"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is not JSON"),
        (b"\xff{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "is not a JSON object"),
        (b'{"layers": 7}', "has no list of layers"),
        (b'{"layers": [7]}', "has no list of layers"),
        (b'{"manifests": {}}', "has no list of layers"),
        (b"{" + b" " * MAX_MANIFEST_BYTES + b"}", f"is larger than {MAX_MANIFEST_BYTES} bytes"),
    ],
)
def test_a_manifest_that_is_none_is_one_warning_and_breaks_nothing(
    tmp_path: Path, content: bytes, why: str, caplog: pytest.LogCaptureFixture
):
    path = a_manifest_file(tmp_path, f"{LIBRARY}/bad/1b", content)
    a_manifest_file(tmp_path, f"{LIBRARY}/bad/2b", content)
    a_manifest(tmp_path, f"{LIBRARY}/good/1b", model=gguf_bytes())
    assert names(tmp_path) == ["good:1b"]
    assert caplog.messages == [f"{path} is not used: it {why} (and 1 more in {tmp_path})"]


def test_other_files_among_the_manifests_are_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    a_manifest(tmp_path, f"{LIBRARY}/good/1b", model=gguf_bytes())
    manifests = tmp_path / "manifests"
    for path in (".DS_Store", "notes", f"{LIBRARY}/file", f"{LIBRARY}/good/.hidden", f"{LIBRARY}/new line\n/1b"):
        (manifests / path).parent.mkdir(parents=True, exist_ok=True)
        (manifests / path).write_bytes(b"")
    (manifests / LIBRARY / "good" / "deep" / "er").mkdir(parents=True)
    os.mkfifo(manifests / LIBRARY / "good" / "pipe")
    assert names(tmp_path) == ["good:1b"]
    pipe = manifests / LIBRARY / "good" / "pipe"
    assert caplog.messages == [f"{pipe} is not used: it is not a regular file"]


def test_the_pipe_in_the_place_of_a_blob_is_not_opened(tmp_path: Path):
    a_manifest(tmp_path, f"{LIBRARY}/x/1b", model=gguf_bytes())
    blob = blob_of(tmp_path, gguf_bytes())
    os.unlink(blob)
    os.mkfifo(blob)
    assert "is not a regular file" in catalog(tmp_path).find("x:1b").problem


def forbid(monkeypatch: pytest.MonkeyPatch, *paths: Path) -> None:
    """These cannot be read, as if they belonged to another user: root, who may run the tests, can read all."""
    forbidden = tuple(map(str, paths))

    def check(name: str):
        real = getattr(os, name)

        def call(path, *arguments, **named):
            if str(path).startswith(forbidden):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, *arguments, **named)

        monkeypatch.setattr(os, name, call)

    check("open")
    check("scandir")


def test_what_another_user_keeps_from_us_is_one_warning_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    for name in ("a", "b", "c"):
        a_manifest(tmp_path, f"{LIBRARY}/{name}/1b", model=gguf_bytes(name=name))
    forbid(monkeypatch, tmp_path / "manifests" / LIBRARY / "a", tmp_path / "manifests" / LIBRARY / "b" / "1b")
    assert names(tmp_path) == ["c:1b"]
    closed = tmp_path / "manifests" / LIBRARY / "a"
    assert caplog.messages == [f"{closed} cannot be read: Permission denied (and 1 more in {tmp_path}); {HINT}"]


def test_a_file_that_another_user_keeps_from_us_is_the_problem_of_its_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """That both names are one file was a warning, too, with a change of the configuration as advice."""
    for tag in ("1b", "latest"):
        a_manifest(tmp_path, f"{LIBRARY}/x/{tag}", model=gguf_bytes())
    forbid(monkeypatch, Path(blob := blob_of(tmp_path, gguf_bytes())))
    problem = f"{os.path.basename(blob)} cannot be read: Permission denied; {HINT}"
    assert {model.name: model.problem for model in catalog(tmp_path).models()} == {"x:1b": problem, "x": problem}
    assert len(caplog.messages) == 2


def test_a_store_that_cannot_be_read_is_one_warning_and_the_folders_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    a_gguf(tmp_path / "own" / "mine.gguf")
    a_manifest(tmp_path / "store", f"{LIBRARY}/x/1b", model=gguf_bytes())
    forbid(monkeypatch, tmp_path / "store")
    assert names(tmp_path / "store", tmp_path / "own") == ["mine"]
    assert caplog.messages == [f"{tmp_path / 'store'} cannot be read: Permission denied; {HINT}"]


def test_a_missing_store_is_a_warning_only_if_it_is_configured(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    assert names(tmp_path / "nowhere") == [] and caplog.messages == []
    catalog(tmp_path / "nowhere", is_configured=True)
    assert caplog.messages == [f"{tmp_path / 'nowhere'} cannot be read: No such file or directory"]


def test_a_folder_that_is_no_store_is_a_warning_if_it_is_configured(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "models").mkdir()
    assert names(tmp_path) == [] and caplog.messages == []
    catalog(tmp_path, is_configured=True)
    assert "has no folder called manifests" in caplog.text


def test_the_environment_says_where_the_store_is_as_it_says_to_ollama(tmp_path: Path):
    assert ollama_folders({"OLLAMA_MODELS": str(tmp_path)}) == (ProgramFolder(str(tmp_path)),)
    assert "/usr/share/ollama/.ollama/models" in [folder.path for folder in ollama_folders({})]


def test_a_reload_finds_what_ollama_has_pulled_and_removed(tmp_path: Path):
    path = a_manifest(tmp_path, f"{LIBRARY}/x/1b", model=gguf_bytes())
    found = catalog(tmp_path)
    path.unlink()
    a_manifest(tmp_path, f"{LIBRARY}/y/1b", model=gguf_bytes(name="y"))
    found.reload()
    assert [model.name for model in found.models()] == ["y:1b"]
