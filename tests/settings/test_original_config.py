"""The original service's config.json: it is accepted unchanged, and each key without effect is a warning."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from app.settings.configuration import PREFIX, Configuration, ConfigurationError, read_configuration
from app.settings.reload import applicable_settings, changed_keys
from app.settings.schema import Settings
from app.settings.sections.model import ModelSettings
from tests.helpers.service import serving

# Every key of the original, and `health_timeout`, which its file contained although its code did not read it.
SHIPPED: dict[str, Any] = {
    "backend": "llama.cpp",
    "server": {"host": "0.0.0.0", "port": 11555},
    "server_pool": {
        "size": 2,
        "host": "localhost",
        "port_start": 11601,
        "gpu_layers": 999,
        "request_timeout": 600,
        "health_timeout": 30,
    },
    "models": {"Qwen3-0.6B": {"repo": "unsloth/Qwen3-0.6B-GGUF", "variant": "Qwen3-0.6B.Q4_K_M.gguf"}},
    "gpu": {
        "enabled": True,
        "enable_gpu_monitoring": True,
        "allocation_strategy": "single-gpu-preferred",
        "gpu_allocation_strategy": None,
        "monitoring_interval": 5.0,
        "cpu_fallback": True,
        "kv_offload": True,
        "cache_type_k": "q8_0",
        "cache_type_v": "f16",
        "repack": True,
        "no_host": False,
        "activation_overhead_factor": 0.25,
        "max_gpus": 4,
        "min_gpus": 2,
        "force_spread": False,
        "spread_only_if_necessary": True,
        "vram_headroom_factor": 1.1,
    },
    "agents": [],
    "simulation": {"llama_cpp_models": {"tiny": {"repo": "a/b", "variant": "Q8_0"}}, "agents": 3},
    "ollama": {"host": "localhost", "port": 11434, "timeout": 30.0},
}
TRANSLATED = {"backend", "server", "models", "size", "request_timeout", "cache_type_k", "cache_type_v"}
TRANSLATED |= {"enabled", "monitoring_interval", "gpu_layers", "cpu_fallback"}
ALREADY_DONE = {"enable_gpu_monitoring", "allocation_strategy", "gpu_allocation_strategy", "kv_offload", "force_spread"}
ALREADY_DONE |= {"spread_only_if_necessary"}


def read(folder: Path, content: dict[str, Any], **environ: str) -> Configuration:
    file = folder / "config.json"
    file.write_text(json.dumps(content))
    with mock.patch.dict(os.environ, {**environ, PREFIX + "CONFIG": str(file)}):
        return read_configuration()


def minimal(**more: Any) -> dict[str, Any]:
    return {"backend": "llama.cpp", "server_pool": {"size": 1}, **more}


def warnings(folder: Path, content: dict[str, Any], **environ: str) -> list[str]:
    """The warnings without the last one, which is about the open address."""
    *others, about_address = read(folder, content, **environ).warnings
    assert about_address.startswith("server.host is 0.0.0.0")
    return others


def test_the_shipped_file_is_translated(tmp_path):
    assert read(tmp_path, SHIPPED).settings.model_dump(exclude_defaults=True) == {
        "server": {"host": "0.0.0.0", "port": 11555, "allow_open": True},
        "upstream": {"first_byte_seconds": 600.0},
        "scheduling": {"max_loaded": 2},
        "gpu": {"poll_seconds": 5.0},
        "defaults": {"cache_type_k": "q8_0"},
        "models": {
            "tiny": {"repo": "a/b:Q8_0"},
            "Qwen3-0.6B": {"repo": "unsloth/Qwen3-0.6B-GGUF:Qwen3-0.6B.Q4_K_M.gguf"},
        },
    }


def test_every_key_is_a_setting_or_a_warning(tmp_path):
    lines = warnings(tmp_path, SHIPPED)
    leaves = [
        f"{section}.{key}" if isinstance(value, dict) and section not in ("models", "ollama", "server") else section
        for section, value in SHIPPED.items()
        for key in (value if isinstance(value, dict) else [""])
    ]
    expected = {leaf for leaf in leaves if leaf.split(".")[-1] not in TRANSLATED | ALREADY_DONE | {"llama_cpp_models"}}
    assert sorted(line.split(":")[0] for line in lines) == sorted(expected - {"agents"})
    assert all(": not used; " in line for line in lines)


def test_a_warning_says_what_happens_instead(tmp_path):
    assert warnings(tmp_path, minimal(server_pool={"size": 1, "port_start": 8001}, agents=["rag"])) == [
        "server_pool.port_start: not used; each llama-server listens on a free port",
        "agents: rag not used; no package with this agent is installed (docs/agents.md)",
    ]


@pytest.mark.parametrize(("gpu_layers", "ours"), [(999, "all"), (-1, "all"), (1000, "all"), (998, 998), (0, 0)])
def test_gpu_layers_are_translated(tmp_path, gpu_layers, ours):
    found = read(tmp_path, minimal(server_pool={"size": 1, "gpu_layers": gpu_layers}))
    assert found.settings.defaults.n_gpu_layers == ours


@pytest.mark.parametrize(("cpu_fallback", "ours"), [(True, "auto"), (False, "never"), (None, "auto")])
def test_cpu_fallback_is_translated(tmp_path, cpu_fallback, ours):
    assert read(tmp_path, minimal(gpu={"cpu_fallback": cpu_fallback})).settings.gpu.cpu_fallback == ours


ONE_GPU_FIRST = "not used; a model is placed on one GPU if it fits there, else on as few as possible"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("enable_gpu_monitoring", False, "not used; GPUs are always monitored; gpu.enabled: false disables their use"),
        ("allocation_strategy", "distribute", ONE_GPU_FIRST),
        ("gpu_allocation_strategy", "distribute", ONE_GPU_FIRST),
        ("kv_offload", False, "not used; the KV cache of a layer is on the device of that layer"),
        ("force_spread", True, f"{ONE_GPU_FIRST}; to use more, set models.NAME.min_gpus"),
        ("spread_only_if_necessary", False, f"{ONE_GPU_FIRST}; to use more, set models.NAME.min_gpus"),
        ("max_gpus", 4, "not used; set it per model, with models.NAME.min_gpus and models.NAME.max_gpus"),
        (
            "vram_headroom_factor",
            1.1,
            "not used; memory is estimated from the header of the model file; gpu.reserve keeps memory free",
        ),
    ],
)
def test_a_gpu_key_without_an_equivalent_is_a_warning(tmp_path, key, value, message):
    assert warnings(tmp_path, minimal(gpu={key: value})) == [f"gpu.{key}: {message}"]


def test_keys_named_by_warnings_may_be_added_to_the_file(tmp_path):
    """Warnings named keys that were then ignored as unknown when added."""
    models = {"m": {"repo": "a/b", "variant": "Q8_0", "min_gpus": 2, "args": ["--no-repack"]}}
    found = read(tmp_path, minimal(gpu={"reserve": "1GiB", "monitoring_interval": 5}, llama_cpp={"models": models}))
    assert found.settings.gpu.model_dump(exclude_defaults=True) == {"reserve": 2**30, "poll_seconds": 5.0}
    assert found.settings.models["m"] == ModelSettings(repo="a/b:Q8_0", min_gpus=2, args=["--no-repack"])
    assert len(found.warnings) == 1  # the open address


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (minimal(surprise=1), "surprise: unknown key; not used, as in the original service"),
        (minimal(gpu={"surprise": 1}), "gpu.surprise: unknown key; not used, as in the original service"),
        (minimal(models={"m": {"repo": "a/b", "size": 1}}), "models.m.size: unknown key; not used"),
        (minimal(models=[]), None),
        (minimal(models=["m"]), "models: not used; must be a mapping of names to models"),
        (
            minimal() | {"backend": "ollama"},
            "backend: not used; llama-server is the only backend",
        ),
    ],
)
def test_what_the_original_ignored_is_a_warning(tmp_path, content, message):
    assert warnings(tmp_path, content) == ([message] if message else [])


def test_the_originals_variable_is_a_warning_only_with_its_file(tmp_path):
    lines = warnings(tmp_path, minimal(), LLM_PROXY_BACKEND="ollama")
    assert lines == ["LLM_PROXY_BACKEND: not used; llama-server is the only backend"]
    with mock.patch.dict(os.environ, {"LLM_PROXY_BACKEND": "ollama"}):
        assert read_configuration().warnings == ()


def test_omitted_keys_have_the_originals_defaults(tmp_path):
    settings = read(tmp_path, {"backend": "llama.cpp"}).settings
    assert (settings.server.host, settings.server.port, settings.scheduling.max_loaded) == ("0.0.0.0", 8000, None)


def test_models_may_be_in_the_section_that_its_readme_documents(tmp_path):
    models = {"m": {"repo": "a/b", "variant": "Q4_0"}, "n": {"repo": "c/d"}}
    found = read(tmp_path, minimal(llama_cpp={"models": models}, models={"n": {"repo": "e/f"}})).settings.models
    assert found == {"m": ModelSettings(repo="a/b:Q4_0"), "n": ModelSettings(repo="e/f")}


def test_an_open_address_is_a_warning_not_an_error(tmp_path):
    found = read(tmp_path, minimal())
    assert found.settings.server.allow_open and found.settings.is_open
    assert [line[:26] for line in found.warnings] == ["server.host is 0.0.0.0, wh"]


def test_api_keys_may_be_added_to_the_file(tmp_path):
    """They were ignored as unknown, and the service was open although its file had keys."""
    found = read(tmp_path, minimal(keys=[{"name": "a", "sha256": "0f" * 32}], scheduling={"max_waiting": 9}))
    assert [key.name for key in found.settings.keys] == ["a"]
    assert (found.settings.scheduling.max_loaded, found.settings.scheduling.max_waiting) == (1, 9)
    assert (found.settings.server.host, found.settings.is_open, found.warnings) == ("0.0.0.0", False, ())


def test_the_environment_overrides_the_originals_file(tmp_path):
    found = read(tmp_path, SHIPPED, **{PREFIX + "SERVER__HOST": "127.0.0.1", PREFIX + "SCHEDULING__MAX_LOADED": "5"})
    assert (found.settings.server.host, found.settings.server.allow_open) == ("127.0.0.1", False)
    assert found.settings.scheduling.max_loaded == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (minimal(server_pool={"size": 0}), "server_pool.size: must be at least 1, not 0"),
        (minimal(server={"port": "x"}), "server.port: must be a whole number, not 'x'"),
        (minimal(gpu={"cache_type_k": 3}), "gpu.cache_type_k: must be one of f32, f16, bf16, q8_0, q4_0, q4_1, "
         "iq4_nl, q5_0, q5_1, not 3"),
        (minimal(server_pool={"gpu_layers": "x"}), "server_pool.gpu_layers: must be all or a whole number, not 'x'"),
        (minimal(gpu={"cpu_fallback": "x"}), "gpu.cpu_fallback: must be one of auto, never, when_full, not 'x'"),
        (minimal(llama_cpp={"models": {"m": {"repo": "a/b", "min_gpus": 0}}}),
         "llama_cpp.models.m.min_gpus: must be at least 1, not 0"),
        (minimal(llama_cpp={"models": {"m": 3}}), "llama_cpp.models.m: must be a mapping of keys to values, not 3"),
    ],
)  # fmt: skip
def test_an_invalid_value_is_reported_at_its_place_in_the_file(tmp_path, content, message):
    with pytest.raises(ConfigurationError) as refused:
        read(tmp_path, content)
    assert str(refused.value) == f"{tmp_path}/config.json: {message}"


def test_our_own_file_is_not_mistaken_for_the_originals(tmp_path):
    with pytest.raises(ConfigurationError, match=r"simulation: unknown key"):
        read(tmp_path, {"simulation": {}})


@pytest.mark.integration
def test_the_shipped_file_starts_the_service_and_each_warning_is_logged_once(tmp_path):
    warned = read(tmp_path, SHIPPED).warnings
    with serving(tmp_path, "--config", str(tmp_path / "config.json")) as service:  # on a port chosen by the system
        assert service.get("/livez").status_code == 200
        service.stop()
        lines = [line for line in service.lines if "configuration: " in line]
    assert [line.partition("configuration: ")[2] for line in lines] == list(warned)


def test_the_file_of_the_original_service_is_reloaded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It listens on all addresses without keys, with a warning, as at its start. Keys that it had are not dropped."""
    file = tmp_path / "config.json"
    monkeypatch.setenv("LLAMA_SMART_PROXY_CONFIG", str(file))

    def settings(**more: Any) -> Settings:
        file.write_text(json.dumps({"backend": "llama.cpp", "server_pool": {"size": 2}, **more}))
        return read_configuration().settings

    running = settings()
    applied = applicable_settings(settings(server_pool={"size": 4}, server={"port": 9999}), running)
    assert changed_keys(running, applied) == ("scheduling.max_loaded",)
    keys = [{"name": "alice", "sha256": hashlib.sha256(b"alice").hexdigest()}]
    with pytest.raises(ConfigurationError, match="no keys are configured"):
        applicable_settings(running, settings(keys=keys))
