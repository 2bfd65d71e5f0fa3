"""Options of Ollama's requests as fields of llama-server's: sampling, output format, thinking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.use_cases.ollama.translation import CHAT, NotTranslatable

# llama-server (b11549, server-task.cpp) has these by the same names.
SAMPLING = frozenset(
    [
        *("seed", "temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_last_n", "repeat_penalty"),
        *("presence_penalty", "frequency_penalty", "mirostat", "mirostat_tau", "mirostat_eta", "stop"),
    ]
)
RENAMED = {"num_keep": "n_keep"}
TRANSLATED = SAMPLING | RENAMED.keys() | {"num_predict", "num_ctx"}
WHOLE_CONTEXT = 262_144  # tokens, for a repeat_last_n of -1, which llama-server rejects: more than nearly all contexts
EFFORTS = ("low", "medium", "high", "max")
MAX_IGNORED = 16  # names that are reported
MAX_NAME = 64


def options_of(request: Mapping[str, Any]) -> dict[str, Any]:
    """The members of `options` that have a value. Raises NotTranslatable."""
    options = request.get("options") or {}
    if not isinstance(options, dict):
        raise NotTranslatable("options", "expected an object")
    return {name: value for name, value in options.items() if value is not None}


def ignored_options(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of those without a counterpart: unknown ones, and those of a load, which the service decides."""
    return tuple(sorted(name[:MAX_NAME] for name in options if name not in TRANSLATED)[:MAX_IGNORED])


def sampling_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """By names that all of the engine's routes know. Values are the engine's to judge."""
    fields = {name: options[name] for name in options if name in SAMPLING}
    fields |= {new: options[old] for old, new in RENAMED.items() if old in options}
    if (tokens := options.get("num_predict")) is not None:
        # -2 once meant the rest of the context.
        fields["max_tokens"] = -1 if _is_negative(tokens) else tokens
    if _is_negative(fields.get("repeat_last_n")):
        fields["repeat_last_n"] = WHOLE_CONTEXT
    return fields


def _is_negative(value: object) -> bool:
    return isinstance(value, int | float) and value < 0


def common_fields(request: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that the proxy itself reads: they have the same meaning in a request to any route."""
    fields = {name: request[name] for name in ("model", "keep_alive") if request.get(name) is not None}
    if "num_ctx" in options:
        fields["num_ctx"] = options["num_ctx"]
    return fields


def wants_stream(request: Mapping[str, Any]) -> bool:
    """True unless the request says otherwise. Raises NotTranslatable."""
    value = request.get("stream")
    if value is not None and not isinstance(value, bool):
        raise NotTranslatable("stream", "expected true or false")
    return value is not False


def format_fields(request: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The output's format: "json", or a JSON schema. Raises NotTranslatable."""
    value = request.get("format")
    if value is None or value == "":
        return {}
    if value != "json" and not isinstance(value, dict):
        raise NotTranslatable("format", 'expected "json" or a JSON schema')
    schema = {"type": "object"} if value == "json" else value
    if path != CHAT:
        return {"json_schema": schema}
    if value == "json":
        return {"response_format": {"type": "json_object"}}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "format", "schema": schema}}}


def thinking_fields(request: Mapping[str, Any]) -> dict[str, Any]:
    """`think` as arguments of the model's chat template: those of Qwen and others, and of gpt-oss for an effort.

    Raises NotTranslatable.
    """
    value = request.get("think")
    if value is None or value == "":
        return {}
    if not isinstance(value, bool) and value not in EFFORTS:
        raise NotTranslatable("think", f"expected true, false or one of {', '.join(EFFORTS)}")
    arguments: dict[str, Any] = {"enable_thinking": value is not False}
    if isinstance(value, str):
        arguments["reasoning_effort"] = value
    return {"chat_template_kwargs": arguments}


def logprob_fields(request: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Log probabilities of the answer's tokens, of which llama-server's own routes call the number n_probs.

    Raises NotTranslatable.
    """
    if not request.get("logprobs"):
        return {}
    top = request.get("top_logprobs") or 0
    if not isinstance(top, int):
        raise NotTranslatable("top_logprobs", "expected a number")
    return {"logprobs": True, "top_logprobs": top} if path == CHAT else {"n_probs": max(1, top)}
