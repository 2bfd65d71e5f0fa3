"""A streamed chat completion: what each event adds, and what the whole took."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from app.terminal.text import rate_cell

DONE = "[DONE]"


class AnswerFailed(Exception):
    """The service sent an error in the middle of an answer; the text is its message."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one event adds. `usage` and `timings` come with the last one."""

    content: str = ""
    reasoning: str = ""
    finish_reason: str = ""
    usage: Mapping[str, int] | None = None
    timings: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """An answer as far as it has come. Times are seconds since the request was sent."""

    content: str = ""
    reasoning: str = ""
    finish_reason: str = ""
    tokens: int | None = None
    prompt_tokens: int | None = None
    tokens_per_second: float | None = None
    first_token_seconds: float | None = None
    load_seconds: float = 0.0  # the part of it that was spent in the queue and on the load


def parse_chunk(data: str) -> Chunk:
    """Raises AnswerFailed if the event is an error, or none of a chat completion's."""
    try:
        event = json.loads(data)
        if error := event.get("error"):
            raise AnswerFailed(str(error.get("message", error) if isinstance(error, dict) else error))
        choice = event["choices"][0] if event.get("choices") else {}
        delta = choice.get("delta") or {}
    except (ValueError, AttributeError, KeyError, TypeError):
        raise AnswerFailed(f"the answer has an event that is no chat completion's: {data[:200]}") from None
    texts = (delta.get("content") or "", delta.get("reasoning_content") or "", choice.get("finish_reason") or "")
    return Chunk(*texts, event.get("usage"), event.get("timings"))


def extended(answer: ChatAnswer, chunk: Chunk, seconds: float, load_seconds: float) -> ChatAnswer:
    """`seconds` and `load_seconds`: when the chunk arrived, and when the load was over."""
    if answer.first_token_seconds is None and (chunk.content or chunk.reasoning):
        answer = replace(answer, first_token_seconds=seconds, load_seconds=load_seconds)
    if chunk.usage:
        tokens, prompt = chunk.usage.get("completion_tokens"), chunk.usage.get("prompt_tokens")
        rate = (chunk.timings or {}).get("predicted_per_second") or _rate(tokens, seconds, answer.first_token_seconds)
        answer = replace(answer, tokens=tokens, prompt_tokens=prompt, tokens_per_second=rate)
    return replace(
        answer,
        content=answer.content + chunk.content,
        reasoning=answer.reasoning + chunk.reasoning,
        finish_reason=chunk.finish_reason or answer.finish_reason,
    )


def _rate(tokens: int | None, seconds: float, first_token_seconds: float | None) -> float | None:
    generating = seconds - (first_token_seconds or seconds)
    return tokens / generating if tokens and generating > 0 else None


def summary(answer: ChatAnswer) -> str:
    """`24 tokens, 58 tokens/s, first after 0.18 s`; what is unknown is left out."""
    parts = []
    if answer.tokens is not None:
        parts.append(f"{answer.tokens} token{'' if answer.tokens == 1 else 's'}")
    if answer.tokens_per_second:
        parts.append(f"{rate_cell(answer.tokens_per_second)} tokens/s")
    if answer.first_token_seconds is not None:
        loading = f" ({answer.load_seconds:.1f} s of it loading)" if answer.load_seconds >= 0.1 else ""
        parts.append(f"first after {answer.first_token_seconds:.2f} s{loading}")
    if answer.finish_reason == "length":
        parts.append("cut off: the limit of tokens is reached")
    return ", ".join(parts)


def answer_json(model: str, answer: ChatAnswer) -> dict[str, Any]:
    """What `run --json` prints."""
    return {
        "model": model,
        "content": answer.content,
        "reasoning": answer.reasoning,
        "finish_reason": answer.finish_reason or None,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.tokens,
        "tokens_per_second": answer.tokens_per_second,
        "first_token_seconds": answer.first_token_seconds,
        "load_seconds": answer.load_seconds,
    }
