"""Parameters and system prompts of Ollama's models, as rules for requests."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from app.entities.launch import LaunchSettings
from app.entities.request_rules import RequestRules
from tests.catalog.test_hub_cache import cached
from tests.helpers.builders import a_gguf
from tests.helpers.ollama_models import LIBRARY, a_blob, a_manifest, gguf_bytes
from workers.catalog.catalog import Catalog, ConfiguredModel
from workers.catalog.ollama_parameters import MAX_PARAMETERS_BYTES, parameter_rules
from workers.catalog.other_programs import ProgramFolder

PARAMS = {"stop": ["<|im_end|>"], "temperature": 0.6, "top_k": 20}
RULES = RequestRules(default=PARAMS)
MARIO = RequestRules(default={**PARAMS, "system_prompt": "You are Mario."})


def catalog(home: Path, *entries: ConfiguredModel) -> Catalog:
    ollama = [ProgramFolder(str(home / "ollama"))]
    return Catalog([], LaunchSettings(), hub_cache=home / "hub", entries=entries, ollama=ollama)


def a_model(home: Path, name: str, content: bytes | None = None, system: str = "", **params: object) -> None:
    layers = {"model": content or gguf_bytes(), "params": json.dumps(params or PARAMS).encode()}
    a_manifest(home / "ollama", f"{LIBRARY}/{name}", **layers, **({"system": system.encode()} if system else {}))


def test_parameters_of_the_sampler_and_the_system_prompt_are_defaults_of_requests(tmp_path: Path):
    a_model(tmp_path, "mario/latest", None, "You are Mario.", **PARAMS, num_ctx=4096, num_gpu=3, use_mmap=False)
    found = catalog(tmp_path)
    assert (found.find("mario").rules, found.find("mario").launch.options.ctx_size) == (
        MARIO,
        LaunchSettings().options.ctx_size,
    )


@pytest.mark.parametrize(
    ("params", "used"),
    [
        ({"num_ctx": 4096, "model": "x", "stream": False, "messages": [], "grammar": "root ::= x"}, {}),
        ({"temperature": True, "top_p": "0.9", "stop": "x", "min_p": None, "seed": [1], "top_k": {}}, {}),
        ({"stop": ["a", 1]}, {}),
        ({"repeat_last_n": -1}, {"repeat_last_n": 262_144}),
        ({"seed": 7, "min_p": 0, "stop": []}, {"seed": 7, "min_p": 0, "stop": []}),
    ],
)
def test_other_parameters_and_values_are_left_out(params: dict[str, object], used: dict[str, object]):
    assert parameter_rules(json.dumps(params).encode(), b"") == RequestRules(default=used)


@pytest.mark.parametrize(
    ("params", "system", "why"),
    [
        (b"{", b"", "are not JSON"),
        (b'{"temperature": NaN}', b"", "are not JSON"),
        (b"[" * 60_000, b"", "are not JSON"),
        (b"[]", b"", "are not a JSON object"),
        (b'{"repeat_last_n": 100000000}', b"", "that no request may have: repeat_last_n"),
        (json.dumps({"stop": ["x"] * 2000}).encode(), b"", "that no request may have: stop"),
        (b"{}", b"\xff", "is not UTF-8"),
        (b"{" + b" " * MAX_PARAMETERS_BYTES + b"}", b"", f"is larger than {MAX_PARAMETERS_BYTES} bytes"),
    ],
)
def test_a_model_with_invalid_parameters_is_served_without_them(
    tmp_path: Path, params: bytes, system: bytes, why: str, caplog: pytest.LogCaptureFixture
):
    layers = {"model": gguf_bytes(), "params": params} | ({"system": system} if system else {})
    a_manifest(tmp_path / "ollama", f"{LIBRARY}/x/1b", **layers)
    model = catalog(tmp_path).find("x:1b")
    assert (model.problem, model.rules) == ("", RequestRules())
    assert "x:1b is served without its parameters and system prompt" in caplog.text and why in caplog.text


def test_parameters_that_are_missing_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    a_model(tmp_path, "x/1b")
    digest = a_blob(tmp_path / "ollama", json.dumps(PARAMS).encode())
    os.unlink(tmp_path / "ollama" / "blobs" / digest.replace(":", "-"))
    assert catalog(tmp_path).find("x:1b").rules == RequestRules() and "No such file" in caplog.text


def test_a_model_made_of_another_one_is_a_variant_of_it(tmp_path: Path):
    """One llama-server serves both, and loads the weights once."""
    for name in ("llama3.2/3b", "llama3.2/latest"):
        a_model(tmp_path, name)
    a_model(tmp_path, "a-mario/latest", system="You are Mario.")
    found = catalog(tmp_path)
    [model] = found.models()
    assert (model.name, model.aliases, model.rules) == ("llama3.2:3b", ("llama3.2",), RULES)
    assert model.variants == {"a-mario": MARIO}
    for name in ("a-mario", "a-mario:latest", "A-Mario", "library/a-mario"):
        assert (found.find(name).name, found.find(name).rules) == ("llama3.2:3b", MARIO)


def test_parameters_apply_to_ollamas_names_of_a_file_that_another_program_has_too(tmp_path: Path):
    cached(tmp_path / "hub", "u/Foo-GGUF", "Foo-Q4_K_M.gguf")
    content = a_gguf(tmp_path / "x.gguf").read_bytes()
    link = tmp_path / "hub/models--u--Foo-GGUF/snapshots/abc/Foo-Q4_K_M.gguf"
    a_model(tmp_path, "foo/7b", content)
    link.unlink()
    link.symlink_to(next((tmp_path / "ollama" / "blobs").glob(a_blob(tmp_path / "ollama", content).replace(":", "-"))))
    found = catalog(tmp_path)
    assert {model.name: list(model.variants) for model in found.models()} == {"u/Foo-GGUF:Q4_K_M": ["foo:7b"]}
    assert (found.find("u/Foo-GGUF").rules, found.find("foo:7b").rules) == (RequestRules(), RULES)


def test_an_entry_of_an_ollama_model_adds_to_its_parameters(tmp_path: Path):
    a_model(tmp_path, "foo/7b")
    rules = RequestRules(default={"temperature": 0.1})
    fast = RequestRules(default={"temperature": 0.1}, set={"top_k": 1})
    found = catalog(tmp_path, ConfiguredModel("foo:7b", LaunchSettings(), requests=rules, variants={"fast": fast}))
    assert found.find("foo:7b").rules == RequestRules(default={**PARAMS, "temperature": 0.1})
    assert found.find("fast").rules == RequestRules(default={**PARAMS, "temperature": 0.1}, set={"top_k": 1})


def test_a_system_prompt_is_not_lost_to_the_entry_of_another_name(tmp_path: Path):
    a_model(tmp_path, "foo/7b")
    a_model(tmp_path, "foo/latest")
    a_model(tmp_path, "mario/latest", system="You are Mario.")
    found = catalog(tmp_path, ConfiguredModel("foo:7b", LaunchSettings()))
    assert (found.find("mario").rules, found.find("foo").name) == (MARIO, "foo:7b")
    assert [model.name for model in found.models()] == ["foo:7b", "mario"]


def test_a_file_named_by_its_path_is_the_file_alone(tmp_path: Path):
    a_model(tmp_path, "foo/7b")
    path = catalog(tmp_path).find("foo:7b").path
    assert catalog(tmp_path, ConfiguredModel("mine", LaunchSettings(), path=Path(path))).find("mine").rules == (
        RequestRules()
    )
