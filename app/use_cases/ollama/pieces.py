"""Pieces: what one event of llama-server's streams, or one whole answer, adds to an answer, whichever the route.

Forms as of b11549: /v1/chat/completions answers with `choices`, /completion and /infill with `content` and `stop`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.use_cases.ollama.translation import CHAT

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer, or all of it."""

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[Json, ...] = ()  # in a stream: parts of calls, each with the call's index
    logprobs: tuple[Json, ...] = ()
    reason: str = ""  # why the answer ends here, in Ollama's words; "" if it goes on
    counts: Mapping[str, int] = field(default_factory=dict)  # Ollama's counts and durations, with the last piece


def piece_of(event: Json, path: str) -> Piece:
    """The piece in an event, or answer, of this path."""
    return _chat_piece(event) if path == CHAT else _completion_piece(event)


def _chat_piece(event: Json) -> Piece:
    choice: Json = next(iter(event.get("choices") or ()), {})
    message = choice.get("delta") or choice.get("message") or {}
    reason = choice.get("finish_reason")
    return Piece(
        text=message.get("content") or "",
        thinking=message.get("reasoning_content") or "",
        tool_calls=tuple(message.get("tool_calls") or ()),
        logprobs=tuple(map(_logprob, (choice.get("logprobs") or {}).get("content") or ())),
        reason=("length" if reason == "length" else "stop") if reason else "",
        counts=_counts(event.get("timings") or {}),
    )


def _completion_piece(event: Json) -> Piece:
    is_last = event.get("stop") is True
    return Piece(
        text=event.get("content") or "",
        logprobs=tuple(map(_logprob, event.get("completion_probabilities") or ())),
        reason=("length" if event.get("stop_type") == "limit" else "stop") if is_last else "",
        counts=_counts(event.get("timings") or {}),
    )


def _logprob(entry: Json) -> Json:
    found = _token(entry)
    if top := entry.get("top_logprobs"):
        found["top_logprobs"] = [_token(each) for each in top]
    return found


def _token(entry: Json) -> dict[str, Any]:
    return {name: entry[name] for name in ("token", "logprob", "bytes") if name in entry}


def _counts(timings: Json) -> dict[str, int]:
    """Of llama-server's timings. A prompt's tokens include those that were in its cache."""
    if not timings:
        return {}
    return {
        "prompt_eval_count": timings.get("prompt_n", 0) + timings.get("cache_n", 0),
        "prompt_eval_duration": nanoseconds(timings.get("prompt_ms", 0) / 1000),
        "eval_count": timings.get("predicted_n", 0),
        "eval_duration": nanoseconds(timings.get("predicted_ms", 0) / 1000),
    }


def nanoseconds(seconds: float) -> int:
    """Ollama's unit of durations."""
    return max(0, round(seconds * 1e9))
