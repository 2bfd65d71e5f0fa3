"""Answers of llama-server as Ollama's objects: those of a stream one by one, or one for the whole answer.

An object here lacks what only the request's thread knows: the model's name, the time, and, in the last one (`done`),
the durations of the whole request and of the load.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from app.use_cases.ollama.messages import ollama_calls
from app.use_cases.ollama.pieces import Json, Piece, piece_of
from app.use_cases.ollama.translation import Api, Translation

CUT = "llama-server ended its answer early; see its log"


class StreamTranslator:
    """Translates one stream, event by event. Used by the request's own thread alone."""

    def __init__(self, translation: Translation) -> None:
        self._translation = translation
        self._calls: dict[int, dict[str, Any]] = {}  # tool calls, whose arguments arrive in parts, by index
        self._reason = ""
        self.is_done = False  # the last object was made, or an error

    def objects(self, event: Json) -> list[dict[str, Any]]:
        """The objects for one event; mostly one."""
        if self.is_done:
            return []
        if "error" in event:
            self.is_done = True
            return [error_object(event)]
        piece = piece_of(event, self._translation.path)
        for part in piece.tool_calls:
            self._add(part)
        self._reason = piece.reason or self._reason
        if not self._reason:
            return self._progress(piece)
        # The counts come with the reason, or, if the client asked for usage, in an event of their own.
        return [*self._progress(piece), *(self._last(piece) if piece.counts else [])]

    def end(self) -> list[dict[str, Any]]:
        """What is missing at the end of the stream."""
        if self.is_done:
            return []
        return self._last(Piece()) if self._reason else [{"error": CUT}]

    def _progress(self, piece: Piece) -> list[dict[str, Any]]:
        if not (piece.text or piece.thinking or piece.logprobs):
            return []
        return [_object(self._translation.api, piece, []) | {"done": False}]

    def _last(self, piece: Piece) -> list[dict[str, Any]]:
        """Tool calls have an object of their own before the last one, as Ollama's clients expect."""
        self.is_done, api = True, self._translation.api
        calls = ollama_calls(list(self._calls.values()))
        called = [_object(api, Piece(), calls) | {"done": False}] if calls else []
        return [*called, _object(api, Piece(), []) | _done(self._reason, piece.counts)]

    def _add(self, part: Json) -> None:
        call = self._calls.setdefault(part.get("index", 0), {"function": {"name": "", "arguments": ""}})
        if part.get("id"):
            call["id"] = part["id"]
        for name, text in (part.get("function") or {}).items():
            if name in call["function"] and isinstance(text, str):
                call["function"][name] += text


def whole_object(answer: Json, translation: Translation) -> dict[str, Any]:
    """The one object of a generated answer that is not a stream."""
    piece = piece_of(answer, translation.path)
    return _object(translation.api, piece, ollama_calls(list(piece.tool_calls))) | _done(piece.reason, piece.counts)


def loaded_object(api: Api, is_unload: bool) -> dict[str, Any]:
    """The answer to a request without a prompt, which only loads or unloads its model."""
    if api is Api.EMBED:
        return {"embeddings": []}
    if api is Api.EMBEDDINGS:
        return {"embedding": []}
    return _object(api, Piece(), []) | {"done": True, "done_reason": "unload" if is_unload else "load"}


def error_object(answer: object) -> dict[str, Any]:
    """An error in Ollama's form, from one in OpenAI's."""
    error = answer.get("error", answer) if isinstance(answer, Mapping) else answer
    message = error.get("message") if isinstance(error, Mapping) else error
    return {"error": message if isinstance(message, str) and message else "llama-server reported an error"}


def first_values(embedding: Sequence[float], dimensions: int) -> list[float]:
    """The first values of an embedding, at length 1 again."""
    values = embedding[:dimensions]
    length = math.sqrt(math.fsum(value * value for value in values)) or 1.0
    return [value / length for value in values]


def _object(api: Api, piece: Piece, calls: list[dict[str, Any]]) -> dict[str, Any]:
    thinking = {"thinking": piece.thinking} if piece.thinking else {}
    logprobs = {"logprobs": list(piece.logprobs)} if piece.logprobs else {}
    if api is Api.GENERATE:
        return {"response": piece.text} | thinking | logprobs
    tool_calls = {"tool_calls": calls} if calls else {}
    return {"message": {"role": "assistant", "content": piece.text} | thinking | tool_calls} | logprobs


def _done(reason: str, counts: Mapping[str, int]) -> dict[str, Any]:
    return {"done": True, "done_reason": reason or "stop", **counts}
