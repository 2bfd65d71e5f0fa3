"""Ollama's requests (api/types.go and server/routes.go at 0013818) as requests to llama-server's routes (b11549)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from app.use_cases.ollama.messages import engine_messages, user_message
from app.use_cases.ollama.options import (
    common_fields,
    format_fields,
    ignored_options,
    logprob_fields,
    options_of,
    sampling_fields,
    thinking_fields,
    wants_stream,
)
from app.use_cases.ollama.translation import (
    CHAT,
    COMPLETION,
    EMBEDDINGS,
    INFILL,
    Api,
    EngineRequest,
    NotTranslatable,
    Translation,
)

Request = Mapping[str, Any]


def engine_request(api: Api, request: Request) -> EngineRequest:
    """The request to the engine that answers this one. Raises NotTranslatable."""
    return _TRANSLATORS[api](request)


def _chat(request: Request) -> EngineRequest:
    if not request.get("messages"):
        return _load(Api.CHAT, request)
    fields = {"messages": engine_messages(request["messages"])}
    if request.get("tools"):
        fields["tools"] = request["tools"]
    return _generation(Api.CHAT, CHAT, request, fields | thinking_fields(request))


def _generate(request: Request) -> EngineRequest:
    """An empty prompt loads the model."""
    prompt = _text(request, "prompt")
    if request.get("context"):
        raise NotTranslatable("context", "not supported: send the conversation as messages to /api/chat")
    if not prompt:
        return _load(Api.GENERATE, request)
    if suffix := _text(request, "suffix"):
        return _generation(Api.GENERATE, INFILL, request, {"input_prefix": prompt, "input_suffix": suffix})
    if request.get("raw"):
        return _raw(prompt, request)
    system = _text(request, "system")
    messages = [{"role": "system", "content": system}] if system else []
    messages.append(user_message(prompt, request.get("images")))
    return _generation(Api.GENERATE, CHAT, request, {"messages": messages} | thinking_fields(request))


def _raw(prompt: str, request: Request) -> EngineRequest:
    for name in ("system", "template", "images"):
        if request.get(name):
            raise NotTranslatable(name, "not supported together with raw")
    return _generation(Api.GENERATE, COMPLETION, request, {"prompt": prompt})


def _embed(request: Request) -> EngineRequest:
    value, dimensions = request.get("input"), request.get("dimensions")
    texts = [value] if isinstance(value, str) and value else value or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise NotTranslatable("input", "expected a string or a list of strings")
    if dimensions is not None and (type(dimensions) is not int or dimensions < 0):
        raise NotTranslatable("dimensions", "expected a number of values")
    return _embeddings(Api.EMBED, request, texts, dimensions or None)


def _old_embeddings(request: Request) -> EngineRequest:
    prompt = _text(request, "prompt")
    return _embeddings(Api.EMBEDDINGS, request, [prompt] if prompt else [], None)


def _embeddings(api: Api, request: Request, texts: list[str], dimensions: int | None) -> EngineRequest:
    if not texts:
        return _load(api, request)
    body = common_fields(request, options_of(request)) | {"input": texts}
    return EngineRequest(Translation(api, EMBEDDINGS, dimensions=dimensions), body)


def _generation(api: Api, path: str, request: Request, fields: dict[str, Any]) -> EngineRequest:
    """A request that generates text."""
    options, streams = options_of(request), wants_stream(request)
    body = common_fields(request, options) | sampling_fields(options) | fields
    body |= format_fields(request, path) | logprob_fields(request, path) | {"stream": streams}
    ignored = ignored_options(options) + (("template",) if request.get("template") else ())
    thinks = fields.get("chat_template_kwargs", {}).get("enable_thinking", False)
    return EngineRequest(Translation(api, path, streams, thinks=thinks, ignored=ignored), body)


def _load(api: Api, request: Request) -> EngineRequest:
    return EngineRequest(Translation(api), common_fields(request, options_of(request)))


def _text(request: Request, name: str) -> str:
    value = request.get(name)
    if value is not None and not isinstance(value, str):
        raise NotTranslatable(name, "expected a string")
    return value or ""


_TRANSLATORS: dict[Api, Callable[[Request], EngineRequest]] = {
    Api.CHAT: _chat,
    Api.GENERATE: _generate,
    Api.EMBED: _embed,
    Api.EMBEDDINGS: _old_embeddings,
}
