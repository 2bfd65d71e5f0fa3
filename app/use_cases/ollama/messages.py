"""Messages of Ollama's chats as OpenAI's: images as data: URLs, arguments of tool calls as text, identified calls."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from app.use_cases.ollama.translation import NotTranslatable

# The first characters of files in base64, which tell their type.
IMAGE_TYPES = {
    "iVBORw0KGgo": "image/png",
    "/9j/": "image/jpeg",
    "R0lGOD": "image/gif",
    "UklGR": "image/webp",
    "Qk": "image/bmp",
}
ANY_IMAGE = "image/jpeg"  # llama-server looks at the file itself, too


def engine_messages(messages: object) -> list[dict[str, Any]]:
    """The same conversation in OpenAI's form. Raises NotTranslatable."""
    if not isinstance(messages, list):
        raise NotTranslatable("messages", "expected a list")
    calls = _ToolCalls()
    return [_message(message, f"messages[{index}]", calls) for index, message in enumerate(messages)]


def user_message(prompt: str, images: object) -> dict[str, Any]:
    """The message of a prompt. Raises NotTranslatable."""
    return {"role": "user", "content": _content(prompt, images, "images")}


class _ToolCalls:
    """Identifies the tool calls of one conversation: Ollama's have no ids, and its results only name the tool."""

    def __init__(self) -> None:
        self._count = 0
        self._unanswered: list[tuple[str, str]] = []  # name and id

    def add(self, name: str, call_id: object) -> str:
        """The id of the next call."""
        found = call_id if isinstance(call_id, str) and call_id else self._new_id()
        self._unanswered.append((name, found))
        return found

    def answer(self, name: object, call_id: object) -> str:
        """The id of the call that a result belongs to: the first one of this tool without a result, or of any tool."""
        if isinstance(call_id, str) and call_id:
            self._unanswered = [call for call in self._unanswered if call[1] != call_id]
            return call_id
        fitting = next((call for call in self._unanswered if call[0] == name), None)
        call = fitting or next(iter(self._unanswered), None)
        if call is None:
            return self._new_id()
        self._unanswered.remove(call)
        return call[1]

    def _new_id(self) -> str:
        """Nine letters and digits, which is what Mistral's templates accept."""
        self._count += 1
        return f"call{self._count:05d}"


def _message(message: object, param: str, calls: _ToolCalls) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise NotTranslatable(param, "expected an object")
    role, tool_calls = message.get("role"), message.get("tool_calls")
    result: dict[str, Any] = {"role": role, "content": _content(message.get("content"), message.get("images"), param)}
    if thinking := message.get("thinking"):
        result["reasoning_content"] = thinking
    if tool_calls:
        result["tool_calls"] = _engine_calls(tool_calls, f"{param}.tool_calls", calls)
    if role == "tool":
        name = message.get("tool_name", message.get("name"))
        result["tool_call_id"] = calls.answer(name, message.get("tool_call_id"))
        result |= {"name": name} if isinstance(name, str) and name else {}
    return result


def _content(text: object, images: object, param: str) -> object:
    """Text, or parts where there are images: they come first, as in Ollama's prompts."""
    if not images:
        return "" if text is None else text
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise NotTranslatable(param, "images must be base64 strings")
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
    return [*parts, {"type": "text", "text": text}] if text else parts


def data_url(image: str) -> str:
    """An image in base64 as a URL. What is no base64 stays part of the data, and can never name another place."""
    if image.startswith("data:"):
        return image
    kind = next((kind for begin, kind in IMAGE_TYPES.items() if image.startswith(begin)), ANY_IMAGE)
    return f"data:{kind};base64,{image}"


def _engine_calls(tool_calls: object, param: str, calls: _ToolCalls) -> list[dict[str, Any]]:
    if not isinstance(tool_calls, list):
        raise NotTranslatable(param, "expected a list")
    return [_engine_call(call, f"{param}[{index}]", calls) for index, call in enumerate(tool_calls)]


def _engine_call(call: object, param: str, calls: _ToolCalls) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise NotTranslatable(param, "expected an object with a function that has a name")
    arguments = function.get("arguments")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
    function = {"name": function["name"], "arguments": text}
    return {"id": calls.add(function["name"], call.get("id")), "type": "function", "function": function}


def ollama_calls(tool_calls: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Whole tool calls of OpenAI's form in Ollama's, whose arguments are objects."""
    return [_ollama_call(call) for call in tool_calls]


def _ollama_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function") or {}
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except ValueError:  # cut by the limit of tokens
        arguments = {}
    arguments = arguments if isinstance(arguments, dict) else {}
    named = {"id": call["id"]} if call.get("id") else {}
    return named | {"function": {"name": function.get("name", ""), "arguments": arguments}}
