"""`check-config`: reports errors or the differences from the defaults, without starting anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from click.testing import CliRunner, Result

from app.commands.cli import main
from app.settings.configuration import PREFIX
from tests.helpers.builders import a_gguf
from tests.helpers.ollama_models import LIBRARY, a_manifest, gguf_bytes

HASH = "0f" * 32
SECRET = "sesame"
BAD_NAME = "a name must have 1 to 512 printable characters, without leading or trailing spaces"


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


def check(*arguments: str, **variables: str) -> Result:
    environ = {PREFIX + name: value for name, value in variables.items()}
    with mock.patch.dict(os.environ, environ):  # the command modifies it
        return CliRunner().invoke(main, ["check-config", *arguments])


def written(folder: Path, text: str, name: str = "config.yaml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_no_configuration_means_the_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    done = check()
    assert (done.exit_code, done.output.splitlines()) == (
        0,
        [
            "The configuration is valid.",
            "Read from: nothing; these are the defaults",
            "Reachable: 127.0.0.1 port 8080, from this machine only, without a key",
            "Models: none",
            "Differs from the defaults:",
            "  nothing",
        ],
    )


def test_sources_and_differences_from_the_defaults_are_printed(tmp_path):
    text = f"""
        server: {{host: 0.0.0.0}}
        keys: [{{name: alice, sha256: {HASH}}}]
        engine: {{env: {{TOKEN: {SECRET}}}}}
        gpu: {{reserve: 1GiB, order: [1], strategy: spread}}
        models: {{qwen: {{ctx_size: 8192, gpus: [0], cpu_moe: on, env: {{TOKEN: {SECRET}}}}}, other: }}
    """
    file = written(tmp_path, text)
    done = check("--config", file, SERVER__PORT="9000")
    assert done.exit_code == 0
    assert [line for line in done.output.splitlines()[1:] if not line.startswith("warning: model ")] == [
        f"Read from: {file}, LLAMA_SMART_PROXY_SERVER__PORT",
        "Reachable: 0.0.0.0 port 9000, from any machine, with a key (1 configured)",
        "Models: 2",
        "Differs from the defaults:",
        "  server.host: 0.0.0.0",
        "  server.port: 9000",
        '  keys: [{"name": "alice"}]',
        "  engine.env.TOKEN: (not shown)",
        "  gpu.reserve: 1GiB",
        '  gpu.order: ["1"]',
        "  gpu.strategy: spread",
        "  models.qwen.ctx_size: 8192",
        "  models.qwen.cpu_moe: on",
        '  models.qwen.gpus: ["0"]',
        "  models.qwen.env.TOKEN: (not shown)",
        "  models.other: {}",
    ]


@pytest.mark.parametrize(
    ("variables", "reachable"),
    [
        ({"SERVER__PORT": "9"}, "127.0.0.1 port 9, from this machine only, without a key"),
        (
            {"KEYS": f'[{{"name": "a", "sha256": "{HASH}"}}]'},
            "127.0.0.1 port 8080, from this machine only, with a key (1 configured)",
        ),
        (
            {"SERVER__HOST": "", "SERVER__ALLOW_OPEN": "true"},
            "0.0.0.0 port 8080, from any machine, without a key: no keys are configured",
        ),
        (
            {"SERVER__CORS_ORIGINS": "*"},
            "127.0.0.1 port 8080, from this machine only, without a key; by web pages of any site",
        ),
        (
            {"SERVER__CORS_ORIGINS": '["https://b", "https://a/"]'},
            "127.0.0.1 port 8080, from this machine only, without a key; by web pages of https://a, https://b",
        ),
    ],
)
def test_one_line_states_who_can_reach_the_service(variables, reachable):
    assert f"Reachable: {reachable}" in check(**variables).output.splitlines()


def test_each_error_is_one_line(tmp_path):
    file = written(tmp_path, 'server: {port: many}\nmodels: {"a\\nb": {zzz: 1}}\ncolour: red')
    done = check("--config", file, SERVER__PROT="1")
    assert (done.exit_code, done.stdout, done.stderr.splitlines()) == (
        1,
        "",
        [
            "LLAMA_SMART_PROXY_SERVER__PROT: unknown name; did you mean LLAMA_SMART_PROXY_SERVER__PORT?",
            f"{file}: server.port: must be a whole number, not 'many'",
            rf"{file}: models.'a\nb': {BAD_NAME}",
            rf"{file}: models.'a\nb'.zzz: unknown key",
            f"{file}: colour: unknown key",
        ],
    )


def test_a_missing_configuration_file_is_exit_2(tmp_path):
    for done in (check("--config", str(tmp_path / "none")), check(CONFIG=str(tmp_path / "none"))):
        assert (done.exit_code, done.stderr) == (2, f"{tmp_path}/none: no such file\n")


def test_warnings_of_the_originals_file_are_printed(tmp_path):
    file = written(tmp_path, '{"backend": "llama.cpp", "ollama": {}}', "config.json")
    done = check("--config", file)
    assert done.exit_code == 0
    assert "warning: ollama: not used; there is no ollama backend; llama-server runs all models" in done.output


def test_json_has_everything_but_secrets(tmp_path):
    text = f"""
        keys: [{{name: alice, sha256: {HASH}}}]
        engine: {{env: {{TOKEN: {SECRET}}}}}
        models: {{m: {{path: m.gguf, env: {{T: {SECRET}}}}}}}
    """
    a_gguf(tmp_path / "m.gguf")
    file = written(tmp_path, text)
    done = check("--config", file, "--json")
    answer = json.loads(done.stdout)
    assert (done.exit_code, answer["ok"], answer["file"], answer["errors"], answer["warnings"]) == (
        0,
        True,
        file,
        [],
        [],
    )
    assert answer["settings"]["keys"] == [
        {"name": "alice", "models": ["*"], "admin": False, "requests_per_minute": 600, "tokens_per_day": None}
    ]
    assert answer["settings"]["models"]["m"]["env"] == {"T": "(not shown)"}
    assert SECRET not in done.output and HASH not in done.output


def test_json_of_an_invalid_configuration_has_the_errors():
    done = check("--json", SERVER__PORT="x")
    assert (done.exit_code, json.loads(done.stdout)) == (
        1,
        {
            "ok": False,
            "file": None,
            "errors": ["LLAMA_SMART_PROXY_SERVER__PORT: must be a whole number, not 'x'"],
            "warnings": [],
            "models": {},
            "settings": {},
        },
    )


def test_a_folder_of_another_program_that_is_missing_is_a_warning(tmp_path):
    done = check("--config", written(tmp_path, "catalog: {ollama: gone, lm_studio: off, hugging_face: {cache: off}}"))
    assert f"warning: {tmp_path}/gone cannot be read: No such file or directory" in done.output


def test_where_models_were_found_is_counted(tmp_path):
    a_gguf(tmp_path / "own" / "m.gguf")
    a_manifest(tmp_path / "store", f"{LIBRARY}/x/1b", model=gguf_bytes())
    file = written(tmp_path, "catalog: {models_dirs: [own], ollama: store, lm_studio: off, hugging_face: {cache: off}}")
    assert "Models: 2: 1 in 1 folder, 1 from Ollama" in check("--config", file).output.splitlines()
    assert json.loads(check("--config", file, "--json").stdout)["models"] == {"file": 1, "ollama": 1}


def test_models_that_cannot_be_served_are_warnings(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "broken.gguf").write_bytes(b"GGUF")
    text = "catalog: {models_dirs: [models], hugging_face: {cache: off}}\nmodels: {mine: {path: gone.gguf}}"
    done = check("--config", written(tmp_path, text))
    assert done.exit_code == 0
    assert [line for line in done.stdout.splitlines() if line.startswith("warning: ")] == [
        "warning: model broken cannot be served: broken.gguf is 4 bytes long, shorter than a GGUF header",
        f"warning: model mine cannot be served: no such file: looked for gone.gguf in {tmp_path}, {tmp_path}/models",
    ]


@pytest.mark.integration
def test_a_problem_with_a_pinned_model_is_printed_once(tmp_path):
    """In a subprocess, where records logged without a handler go to stderr."""
    a_gguf(tmp_path / "large.gguf", size_bytes=8 * 2**40)
    text = "catalog: {models_dirs: [.], hugging_face: {cache: off}}\nmodels: {%s: {pin: true}}"
    command = [sys.executable, "-m", "app.commands.cli", "check-config", "--config"]
    large = subprocess.run([*command, written(tmp_path, text % "large")], capture_output=True, text=True, timeout=60)
    assert large.stdout == "" and large.stderr.count("\n") == 1, large.stderr
    assert large.stderr.startswith("models.large.pin: it does not fit this machine: ")
    gone = subprocess.run([*command, written(tmp_path, text % "gone")], capture_output=True, text=True, timeout=60)
    assert (gone.stdout.count("no such model"), gone.stderr) == (1, "")


def test_a_missing_engine_is_a_warning(tmp_path):
    done = check("--config", written(tmp_path, "engine: {binary: /no/such/llama-server}"))
    warning = "warning: engine.binary: no such program: /no/such/llama-server; no model can be served without it"
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, warning)


def test_a_retired_key_is_a_warning_that_names_its_replacement(tmp_path):
    for done in (check("--config", written(tmp_path, "server: {cpu: 3}")), check(SERVER__CPU="3")):
        assert (done.exit_code, done.stdout.count("warning: ")) == (0, 1)
        assert "ignored, retired on 2026-12-01: to pin the service to CPUs, set CPUAffinity=" in done.stdout


def test_globs_of_downloads_that_nothing_reads_are_a_warning(tmp_path):
    text = "catalog: {hugging_face: {allow: [a/*]}}"
    done = check("--config", file := written(tmp_path, text))
    message = "catalog.hugging_face.allow: counts only with `download: allow`; download is off"
    assert f"warning: {file}: {message}" in done.output.splitlines()
    assert "counts only" not in check("--config", file, CATALOG__HUGGING_FACE__DOWNLOAD="allow").output


def test_a_models_own_engine_must_be_a_program(tmp_path):
    (tmp_path / "notes.txt").write_text("no program")
    (tmp_path / "folder").mkdir()
    engines = {"a": "/none/llama-server", "b": tmp_path / "folder", "c": tmp_path / "notes.txt", "d": "cuda-1"}
    models = "".join(f"  {name}: {{engine: {engine}}}\n" for name, engine in engines.items())
    done = check("--config", written(tmp_path, f"models:\n{models}  e: {{engine: embedded}}\n"), CATALOG__OLLAMA="off")
    reasons = {
        "a": "does not exist",
        "b": "is a directory",
        "c": "is not executable",
        "d": "does not exist: no installed one has this name, and PATH has none",
    }
    assert (done.exit_code, done.stderr.splitlines()) == (
        1,
        [
            f"models.{name}.engine '{engines[name]}' {reason}. Next: correct it, or set models.{name}.engine to auto"
            for name, reason in reasons.items()
        ],
    )
