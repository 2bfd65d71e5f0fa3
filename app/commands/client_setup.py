"""What `launch` sets for each client: environment variables and arguments, none of the client's files.

The names were checked by running Claude Code 2.1.197, Codex 0.171, opencode 1.18.33, Qwen Code 0.15.10 and aider 0.86,
and against the source of goose (crates/goose/src/providers/openai.rs), which was not run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from app.commands.service_client import KEY_VARIABLE
from app.use_cases.reporting.client_snippets import CLAUDE_MODEL_VARIABLES, NO_KEY

KEY = f"${KEY_VARIABLE}"  # a value in `Setup.environment` that stands for the key
_PROVIDER = "llama-smart-proxy"
_QWEN_DEFAULT_CONTEXT = 131_072
_LEAST_CONTEXT = 16_384


@dataclass(frozen=True, slots=True)
class Target:
    """What a client is pointed at."""

    url: str  # of the service, without a path
    model: str
    context_tokens: int | None  # of one conversation; None: unknown
    has_key: bool
    ctx_size_key: str  # the setting that decides about context_tokens

    @property
    def openai_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def key(self) -> str:
        return KEY if self.has_key else NO_KEY


@dataclass(frozen=True, slots=True)
class Setup:
    """Environment and arguments of a client. The value KEY stands for the key, which is never an argument."""

    environment: Mapping[str, str]
    arguments: tuple[str, ...] = ()
    note: str = ""  # what cannot be set this way


@dataclass(frozen=True, slots=True)
class Client:
    title: str
    program: str
    install: str
    prompt_tokens: int  # of a first request with the client's instructions and tools; 0: not measured
    setup: Callable[[Target], Setup]
    default_arguments: tuple[str, ...] = ()  # if the user gives none


def _claude(target: Target) -> Setup:
    environment = {
        "ANTHROPIC_BASE_URL": target.url,
        "ANTHROPIC_AUTH_TOKEN": target.key,
        "ANTHROPIC_API_KEY": "",  # would take precedence
        **dict.fromkeys(CLAUDE_MODEL_VARIABLES, target.model),
        # A line of its system prompt that differs in every session, and would void the prompt cache.
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
    }
    if target.context_tokens:
        environment["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] = str(target.context_tokens)
        environment["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] = str(min(32_000, target.context_tokens // 4))
    return Setup(environment)


def _codex(target: Target) -> Setup:
    provider = {"name": "Llama Smart Proxy", "base_url": target.openai_url, "wire_api": "responses"}
    if target.has_key:
        provider["env_key"] = KEY_VARIABLE
    table = ", ".join(f"{name}={_toml(value)}" for name, value in provider.items())
    settings = [
        f"model_provider={_toml(_PROVIDER)}",
        f"model_providers.{_PROVIDER}={{{table}}}",
        f"model={_toml(target.model)}",
    ]
    if target.context_tokens:
        settings.append(f"model_context_window={target.context_tokens}")
    return Setup({}, tuple(word for setting in settings for word in ("-c", setting)))


def _toml(text: str) -> str:
    """A basic string of TOML. JSON's escapes are valid there, except for surrogate pairs."""
    return json.dumps(text, ensure_ascii=False)


def _opencode(target: Target) -> Setup:
    model: dict[str, object] = {"name": target.model}
    if target.context_tokens:
        model["limit"] = {"context": target.context_tokens, "output": min(32_000, target.context_tokens // 4)}
    options = {"baseURL": target.openai_url, "apiKey": f"{{env:{KEY_VARIABLE}}}" if target.has_key else NO_KEY}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "Llama Smart Proxy",
        "options": options,
        "models": {target.model: model},
    }
    name = f"{_PROVIDER}/{target.model}"
    config = {"model": name, "small_model": name, "provider": {_PROVIDER: provider}}
    return Setup({"OPENCODE_CONFIG_CONTENT": json.dumps(config)})


def _qwen(target: Target) -> Setup:
    context, note = target.context_tokens, ""
    if context and context < _QWEN_DEFAULT_CONTEXT:
        note = (
            f"Qwen Code assumes {_QWEN_DEFAULT_CONTEXT:,} tokens of context, unless its settings.json says "
            f'{{"model": {{"generationConfig": {{"contextWindowSize": {context}}}}}}}'
        )
    environment = {
        "OPENAI_BASE_URL": target.openai_url,
        "OPENAI_API_KEY": target.key,
        "OPENAI_MODEL": target.model,
    }
    return Setup(environment, ("--auth-type", "openai", "--model", target.model), note)


def _aider(target: Target) -> Setup:
    arguments = ["--model", f"openai/{target.model}", "--openai-api-base", target.openai_url]
    if target.context_tokens:  # aider's own rule for a model whose context it knows
        history_tokens = min(max(target.context_tokens // 16, 1024), 8192)
        arguments += ["--max-chat-history-tokens", str(history_tokens)]
    return Setup({"OPENAI_API_KEY": target.key}, (*arguments, "--no-show-model-warnings"))


def _goose(target: Target) -> Setup:
    environment = {
        "GOOSE_PROVIDER": "openai",
        "GOOSE_MODEL": target.model,
        "OPENAI_HOST": target.url,
        "OPENAI_BASE_PATH": "v1/chat/completions",
        "OPENAI_API_KEY": target.key,
    }
    if target.context_tokens:
        environment["GOOSE_CONTEXT_LIMIT"] = str(target.context_tokens)
    return Setup(environment)


CLIENTS = {
    "claude": Client("Claude Code", "claude", "npm install -g @anthropic-ai/claude-code", 23_000, _claude),
    "codex": Client("Codex", "codex", "npm install -g @openai/codex", 9_000, _codex),
    "opencode": Client("opencode", "opencode", "npm install -g opencode-ai", 7_000, _opencode),
    "qwen": Client("Qwen Code", "qwen", "npm install -g @qwen-code/qwen-code", 15_000, _qwen),
    "aider": Client("aider", "aider", "pip install aider-chat", 700, _aider),
    "goose": Client(
        "goose", "goose", "see https://goose-docs.ai/docs/getting-started/installation", 0, _goose, ("session",)
    ),
}


def context_warning(client: Client, target: Target) -> str:
    """Why the model's context does not suit the client, with the setting to change; "" if it does or is unknown."""
    context = target.context_tokens
    least = max(2 * client.prompt_tokens, _LEAST_CONTEXT)
    if context is None or context >= least:
        return ""
    sends = f"It sends about {client.prompt_tokens:,} before your first word. " if client.prompt_tokens else ""
    return (
        f"a context of {context:,} tokens is too short for {client.title}. {sends}"
        f"Set {target.ctx_size_key} to {1 << (least - 1).bit_length()} or more, "
        "as far as the model and the memory allow."
    )
