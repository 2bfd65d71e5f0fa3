"""Settings: where they come from, and what is said about wrong ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.settings import PREFIX, ConfigurationError, load_settings


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, name: str = "config.yaml"):
    (tmp_path / name).write_text(text)
    monkeypatch.setenv(PREFIX + "CONFIG", str(tmp_path / name))
    return load_settings()


def test_an_empty_file_means_the_defaults(tmp_path, monkeypatch):
    assert configured(tmp_path, monkeypatch, "") == load_settings()
    assert load_settings().server.port == 8080


def test_the_environment_is_stronger_than_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv(PREFIX + "SERVER__PORT", "9")
    settings = configured(tmp_path, monkeypatch, "server: {port: 8, host: 0.0.0.0}")
    assert (settings.server.port, settings.server.host) == (9, "0.0.0.0")


def test_json_is_read_too(tmp_path, monkeypatch):
    assert configured(tmp_path, monkeypatch, '{"server": {"max_body": "1MiB"}}', "c.json").server.max_body == 2**20


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("server: {prot: 1}", "server.prot: unknown key; did you mean server.port?"),
        ("schedulling: {}", "schedulling: unknown key"),
        ("server: {port: many}", "server.port: "),
        ("server: {threads: 8, reserve_threads: 8}", "reserve_threads (8) must be below threads (8) - 1"),
        ("scheduling: {max_waiting: 500}", "scheduling.max_waiting (500) must be below"),
        ("server: [", "config.yaml"),
        ("defaults: {ctx_size: -1}", "defaults.ctx_size"),
        ("engine: {env: {LLAMA_ARG_TOOLS: all}}", "LLAMA_ARG_TOOLS may not be set"),
        ("engine: {env: {LLAMA_API_KEY: mine}}", "LLAMA_API_KEY may not be set"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(tmp_path, monkeypatch, text, said):
    with pytest.raises(ConfigurationError) as refused:
        configured(tmp_path, monkeypatch, text)
    assert said in str(refused.value)


def test_a_misspelt_name_in_the_environment_is_refused(monkeypatch):
    monkeypatch.setenv(PREFIX + "SERVER__PROT", "1")
    with pytest.raises(ConfigurationError, match=r"SERVER__PROT: unknown name; did you mean .*SERVER__PORT\?"):
        load_settings()


def test_a_missing_file_is_named(monkeypatch):
    monkeypatch.setenv(PREFIX + "CONFIG", "/nowhere/config.yaml")
    with pytest.raises(ConfigurationError, match=r"/nowhere/config\.yaml: no such file"):
        load_settings()


def test_the_default_queue_shrinks_with_the_threads(monkeypatch):
    monkeypatch.setenv(PREFIX + "SERVER__THREADS", "24")
    assert load_settings().scheduling.max_waiting == 7  # 24 threads - 16 in reserve, one of them running


def test_folders_may_start_at_home_or_at_the_configuration_file(tmp_path, monkeypatch):
    settings = configured(tmp_path, monkeypatch, "catalog: {models_dirs: [~/models, here, /there]}")
    assert settings.catalog.models_dirs == [Path.home() / "models", tmp_path / "here", Path("/there")]
