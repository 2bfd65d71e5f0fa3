"""`launch`: which model, and what is set for each client."""

from __future__ import annotations

import json
import shlex
import tomllib
from typing import Any

import pytest
from click.testing import CliRunner

from app.commands import service_client
from app.commands.cli import main
from app.commands.client_setup import CLIENTS, KEY, Target, context_warning
from app.commands.launch import shell_lines
from app.commands.service_client import ServiceAnswer

URL = "http://127.0.0.1:8080"


def a_target(model: str = "qwen3-8b", context_tokens: int | None = 65_536, has_key: bool = True) -> Target:
    return Target(URL, model, context_tokens, has_key, f"models.{model}.ctx_size")


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("has_key", [True, False])
def test_every_client_gets_the_address_and_the_model_and_no_key_in_its_arguments(name: str, has_key: bool):
    setup = CLIENTS[name].setup(a_target(has_key=has_key))
    everything = json.dumps([dict(setup.environment), setup.arguments])
    assert URL in everything
    assert "qwen3-8b" in everything
    assert not any(KEY in argument for argument in setup.arguments)
    assert (KEY in setup.environment.values() or "LLAMA_SMART_PROXY_API_KEY" in everything) == has_key


@pytest.mark.parametrize("name", CLIENTS)
def test_an_unknown_context_is_left_to_the_client(name: str):
    setup = CLIENTS[name].setup(a_target(context_tokens=None))
    assert not any(
        word in json.dumps([dict(setup.environment), setup.arguments]) for word in ("CONTEXT_", "limit", "window")
    )


def test_claude_code_uses_the_model_for_each_of_its_tiers():
    environment = CLIENTS["claude"].setup(a_target()).environment
    assert environment == {
        "ANTHROPIC_BASE_URL": URL,
        "ANTHROPIC_AUTH_TOKEN": KEY,
        "ANTHROPIC_API_KEY": "",
        "ANTHROPIC_MODEL": "qwen3-8b",
        "ANTHROPIC_DEFAULT_OPUS_MODEL": "qwen3-8b",
        "ANTHROPIC_DEFAULT_SONNET_MODEL": "qwen3-8b",
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": "qwen3-8b",
        "CLAUDE_CODE_SUBAGENT_MODEL": "qwen3-8b",
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": "65536",
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "16384",
    }


@pytest.mark.parametrize("model", ["qwen3-8b", "unsloth/Qwen3-8B-GGUF:Q4_K_M", 'a "quoted" model', "\U0001f999"])
def test_codex_reads_its_settings_as_toml(model: str):
    arguments = CLIENTS["codex"].setup(a_target(model)).arguments
    assert set(arguments[::2]) == {"-c"}
    settings: dict[str, Any] = {}
    for setting in arguments[1::2]:
        settings |= tomllib.loads(setting)
    assert settings == {
        "model_provider": "llama-smart-proxy",
        "model_providers": {
            "llama-smart-proxy": {
                "name": "Llama Smart Proxy",
                "base_url": f"{URL}/v1",
                "wire_api": "responses",
                "env_key": "LLAMA_SMART_PROXY_API_KEY",
            }
        },
        "model": model,
        "model_context_window": 65536,
    }


def test_opencode_gets_a_provider_with_one_model():
    config = json.loads(CLIENTS["opencode"].setup(a_target()).environment["OPENCODE_CONFIG_CONTENT"])
    assert config["model"] == config["small_model"] == "llama-smart-proxy/qwen3-8b"
    provider = config["provider"]["llama-smart-proxy"]
    assert provider["options"] == {"baseURL": f"{URL}/v1", "apiKey": "{env:LLAMA_SMART_PROXY_API_KEY}"}
    assert provider["models"] == {"qwen3-8b": {"name": "qwen3-8b", "limit": {"context": 65536, "output": 16384}}}


def test_qwen_code_is_told_to_change_its_settings_if_the_context_is_shorter_than_it_assumes():
    assert '"contextWindowSize": 65536' in CLIENTS["qwen"].setup(a_target()).note
    assert CLIENTS["qwen"].setup(a_target(context_tokens=131_072)).note == ""


def test_aider_and_goose_use_the_openai_api():
    aider, goose = (CLIENTS[name].setup(a_target(has_key=False)) for name in ("aider", "goose"))
    assert aider.environment == {"OPENAI_API_KEY": "none"}
    assert aider.arguments[:4] == ("--model", "openai/qwen3-8b", "--openai-api-base", f"{URL}/v1")
    assert goose.environment["OPENAI_HOST"] == URL
    assert goose.environment["GOOSE_CONTEXT_LIMIT"] == "65536"


@pytest.mark.parametrize(
    ("name", "tokens", "ctx_size"),
    [("claude", 45_999, 65536), ("codex", 17_999, 32768), ("qwen", 29_999, 32768), ("aider", 16_383, 16384)],
)
def test_a_context_that_leaves_little_room_beside_the_clients_own_prompt_is_a_warning(
    name: str, tokens: int, ctx_size: int
):
    assert f"models.qwen3-8b.ctx_size to {ctx_size} or more" in context_warning(
        CLIENTS[name], a_target("qwen3-8b", tokens)
    )
    assert context_warning(CLIENTS[name], a_target("qwen3-8b", tokens + 1)) == ""
    assert context_warning(CLIENTS[name], a_target("qwen3-8b", None)) == ""


def test_the_printed_lines_mean_the_same_to_a_shell_and_only_refer_to_the_key():
    lines = shell_lines({"TOKEN": KEY, "EMPTY": "", "JSON": '{"a b": "it\'s $HOME"}'}, ("printf", "%s|", "a b"))
    assert lines[0] == 'export TOKEN="$LLAMA_SMART_PROXY_API_KEY"'
    assert shlex.split(lines[2])[1] == 'JSON={"a b": "it\'s $HOME"}'
    assert shlex.split(lines[3]) == ["printf", "%s|", "a b"]


A, B = ({"id": name, "status": {"value": "unloaded"}, "context_length": 8192} for name in ("a", "b"))
VARIANT = A | {"id": "a-thinking", "parent": "a"}
EMBEDDER = B | {"id": "embedder", "capabilities": ["embedding"]}
DEFAULT = A | {"id": "default"}
LOADED = {"id": "c", "status": {"value": "loaded"}, "capabilities": ["completion", "chat"]}
VIRTUAL = LOADED | {"id": "fast", "any_of": ["c", "a"]}


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ([A], "with a (the only one) at http://127.0.0.1:8080, context: 8,192 tokens"),
        ([A, VARIANT, EMBEDDER], "with a (the only one)"),
        ([A, LOADED, VIRTUAL], "with c (the only one that is loaded)"),
        ([A, B, LOADED], "with c (the only one that is loaded) at http://127.0.0.1:8080, context: unknown"),
        ([A, B], "choose a model with --model: a, b"),
        ([A, EMBEDDER, DEFAULT, LOADED], "with default (the default)"),
        ([EMBEDDER], "has no model that can chat"),
    ],
)
def test_without_a_name_the_only_the_default_or_the_loaded_model_is_used(
    monkeypatch: pytest.MonkeyPatch, models: list[dict[str, Any]], said: str
):
    body = {"data": models, "default_model": "default"}
    monkeypatch.setattr(service_client, "call_service", lambda *question: ServiceAnswer(200, body))
    assert said in CliRunner().invoke(main, ["launch", "claude", "--print"]).output


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (VARIANT, "Set models.a.ctx_size to 65536"),
        (A | {"any_of": ["a", "b"]}, "Set ctx_size of a, b to 65536"),
        (EMBEDDER, "x generates no text: its `capabilities`"),
        (A | {"capabilities": [], "status": {"message": "a.gguf is truncated"}}, "no text: a.gguf is truncated"),
    ],
)
def test_a_model_that_does_not_suit_the_client_is_a_warning_or_an_error(
    monkeypatch: pytest.MonkeyPatch, entry: dict[str, Any], said: str
):
    monkeypatch.setattr(service_client, "call_service", lambda *question: ServiceAnswer(200, entry))
    assert said in CliRunner().invoke(main, ["launch", "claude", "--print", "--model", "x"]).output


@pytest.mark.parametrize("url", [URL, f"{URL}/", f"{URL}/v1", f"{URL}/v1/"])
def test_the_base_url_of_openai_s_clients_is_an_address_of_the_service(monkeypatch: pytest.MonkeyPatch, url: str):
    asked = []

    def answer(url: str, method: str, path: str) -> ServiceAnswer:
        asked.append(url + path)
        return ServiceAnswer(200, A)

    monkeypatch.setattr(service_client, "call_service", answer)
    assert f"{URL}\n" in CliRunner().invoke(main, ["launch", "claude", "--print", "--model", "a", "--url", url]).output
    assert asked == [f"{URL}/v1/models/a"]


def test_an_unknown_model_is_the_services_answer(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def answer(url: str, method: str, path: str) -> ServiceAnswer:
        asked.append(path)
        return ServiceAnswer(404, {"error": {"message": "no model nosuch"}})

    monkeypatch.setattr(service_client, "call_service", answer)
    result = CliRunner().invoke(main, ["launch", "codex", "--model", "user/repo:no such"])
    assert (result.exit_code, result.output) == (1, "no model nosuch\n")
    assert asked == ["/v1/models/user/repo%3Ano%20such"]
