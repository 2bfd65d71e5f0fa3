"""What an answer says of the tokens it took: in its last events, or in its JSON.

Looked at once, when the answer is over: of what passes by, only the end is kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from app.ports import TokenUsage

MOST_BYTES = 128 * 1024  # of an end that is looked through
_EVENT = re.compile(rb"^data: ?(\{.*\})\r?$", re.MULTILINE)
_TELLS = (b'"usage"', b'"timings"')


class Tail:
    """The last two pieces of an answer."""

    __slots__ = ("before", "last")

    def __init__(self) -> None:
        self.before = self.last = b""

    def add(self, piece: bytes) -> None:
        self.before, self.last = self.last, piece

    def usage(self, is_stream: bool) -> TokenUsage | None:
        """None: it says nothing of it, or not in a way that is known."""
        end = self.before + self.last
        if len(end) > MOST_BYTES or not any(word in end for word in _TELLS):
            return None
        texts = (
            [event for event in _EVENT.findall(end) if any(word in event for word in _TELLS)] if is_stream else [end]
        )
        return next(filter(None, map(_usage, reversed(texts))), None)


def _usage(text: bytes) -> TokenUsage | None:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    inner = said.get("response")  # of OpenAI's responses
    usage = said.get("usage") or (inner.get("usage") if isinstance(inner, dict) else None)
    return _of_usage(usage) or _of_timings(said.get("timings"))


def _of_usage(usage: Any) -> TokenUsage | None:
    """OpenAI's names, and those that Anthropic's messages and OpenAI's responses have."""
    if not isinstance(usage, dict):
        return None
    prompt = _count(usage, "prompt_tokens") or _count(usage, "input_tokens") or 0
    completion = _count(usage, "completion_tokens") or _count(usage, "output_tokens") or 0
    return TokenUsage(prompt, completion) if prompt or completion else None


def _of_timings(timings: Any) -> TokenUsage | None:
    """llama-server's own: tokens of the prompt that were computed, and those that the cache had."""
    if not isinstance(timings, dict):
        return None
    prompt = (_count(timings, "prompt_n") or 0) + (_count(timings, "cache_n") or 0)
    completion = _count(timings, "predicted_n") or 0
    return TokenUsage(prompt, completion) if prompt or completion else None


def _count(said: Mapping[str, Any], name: str) -> int | None:
    value = said.get(name)
    return value if type(value) is int and 0 <= value < 2**53 else None
