"""Help and completion: what a person sees before a service runs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.commands import completion
from app.commands.cli import main
from app.commands.groups import ALIASES, SECTIONS
from app.commands.service import model_names
from app.commands.service_client import NoServiceAnswer, ServiceAnswer

NAMES = ["demo", "unsloth/Qwen3-14B-GGUF:Q4_K_M", "unsloth/Qwen3-14B-GGUF:Q8_0", "odd\x1bname"]


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where they were looked for."""
    urls = []

    def answer(url: str, method: str, path: str, timeout_seconds: float) -> ServiceAnswer:
        assert timeout_seconds <= 1
        urls.append(url + path)
        data = [{"id": name, "status": {"value": "loaded" if name == "demo" else "unloaded"}} for name in NAMES]
        return ServiceAnswer(200, {"data": data})

    monkeypatch.setattr(model_names, "ask_service", answer)
    return urls


def completed(line: str) -> list[str]:
    variables = {"COMP_WORDS": line, "_LLAMA_SMART_PROXY_COMPLETE": "bash_complete"}
    return CliRunner().invoke(main, prog_name=completion.PROGRAM, env=variables).stdout.splitlines()


def test_the_help_lists_every_command_in_a_section():
    text = CliRunner().invoke(main, ["--help"]).output
    for name in (*main.commands, *ALIASES):
        assert re.search(rf"^  (\w+, )?{name}[ ,]", text, re.MULTILINE), name
    assert sorted(main.commands) == sorted(name for names in SECTIONS.values() for name in names)


def test_a_mistyped_command_is_answered_with_a_similar_one():
    result = CliRunner().invoke(main, ["decision"])
    assert (result.exit_code, "did you mean decisions?" in result.output) == (2, True)


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_has_help(name: str):
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 4


def test_names_of_models_are_completed(models: list[str]):
    assert completed("llama-smart-proxy run ") == [f"plain,{name}" for name in NAMES[:3]]


def test_bash_replaces_only_what_follows_a_colon(models: list[str]):
    line = "llama-smart-proxy load unsloth/Qwen3-14B-GGUF:Q"
    assert completed(line) == ["plain,Q4_K_M", "plain,Q8_0"]


def test_only_loaded_models_are_completed_for_unload(models: list[str]):
    assert completed("llama-smart-proxy unload --url http://127.0.0.1:1/v1 ") == ["plain,demo"]
    assert models == ["http://127.0.0.1:1/v1/models"]


def test_a_shell_shows_no_error_of_a_completion(monkeypatch: pytest.MonkeyPatch):
    def no_answer(*question: object, **options: object) -> ServiceAnswer:
        raise NoServiceAnswer("nothing answers")

    monkeypatch.setattr(model_names, "ask_service", no_answer)
    assert completed("llama-smart-proxy run ") == [""]


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_each_shell_gets_a_script_for_this_program(shell: str):
    script = CliRunner().invoke(main, ["completion", shell]).output
    assert f"_LLAMA_SMART_PROXY_COMPLETE={shell}_complete" in script
    assert ("COMP_LINE" in script) == (shell == "bash")


@pytest.mark.integration
@pytest.mark.skipif(shutil.which("bash") is None, reason="completes in bash")
def test_bash_completes_a_command_with_its_script():
    script = CliRunner().invoke(main, ["completion", "bash"]).output
    line = "llama-smart-proxy check"
    ask = f"COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)}; _llama_smart_proxy_completion llama-smart-proxy"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    argv = ["bash", "-c", f'{script}\n{ask}\necho "${{COMPREPLY[@]}}"']
    assert subprocess.run(argv, capture_output=True, text=True, env={"PATH": path}).stdout == "check-config\n"
