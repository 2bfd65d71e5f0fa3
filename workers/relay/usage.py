"""Token counts, as an answer reports them: in one of its last events, or in its JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from app.ports import TokenUsage

MAX_BYTES = 128 * 1024  # of the end of an answer that are searched
_EVENT = re.compile(rb"^data: ?(\{.*\})\r?$", re.MULTILINE)
_KEYS = (b'"usage"', b'"timings"')


def token_usage(end: bytes, is_stream: bool) -> TokenUsage | None:
    """The counts in the last bytes of an answer; None if there are none, or in an unknown form."""
    if len(end) > MAX_BYTES or not _has_counts(end):
        return None
    if not is_stream:
        return _of_json(end) or _of_end(end)
    texts = [event for event in _EVENT.findall(end) if _has_counts(event)]
    return next(filter(None, map(_of_json, reversed(texts))), None)


def _has_counts(text: bytes) -> bool:
    return any(key in text for key in _KEYS)


def _of_end(end: bytes) -> TokenUsage | None:
    """The counts of a long answer, whose beginning is not in `end`. Text cannot have them: its quotes are escaped."""
    for key, read in zip(_KEYS, (_of_usage, _of_timings), strict=True):
        _, found, rest = end.rpartition(key + b":")
        try:
            value, _ = json.JSONDecoder().raw_decode(rest.decode(errors="replace").lstrip()) if found else (None, 0)
        except (ValueError, RecursionError):
            continue
        if counts := read(value):
            return counts
    return None


def _of_json(text: bytes) -> TokenUsage | None:
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(answer, dict):
        return None
    inner = answer.get("response")  # of OpenAI's responses
    usage = answer.get("usage") or (inner.get("usage") if isinstance(inner, dict) else None)
    return _of_usage(usage) or _of_timings(answer.get("timings"))


def _of_usage(usage: Any) -> TokenUsage | None:
    """OpenAI's names, and those of Anthropic's messages and OpenAI's responses."""
    if not isinstance(usage, dict):
        return None
    prompt = _count(usage, "prompt_tokens") or _count(usage, "input_tokens") or 0
    completion = _count(usage, "completion_tokens") or _count(usage, "output_tokens") or 0
    return TokenUsage(prompt, completion) if prompt or completion else None


def _of_timings(timings: Any) -> TokenUsage | None:
    """llama-server's own: prompt tokens that were computed, and those that the cache had."""
    if not isinstance(timings, dict):
        return None
    prompt = (_count(timings, "prompt_n") or 0) + (_count(timings, "cache_n") or 0)
    completion = _count(timings, "predicted_n") or 0
    return TokenUsage(prompt, completion) if prompt or completion else None


def _count(counts: Mapping[str, Any], name: str) -> int | None:
    value = counts.get(name)
    return value if type(value) is int and 0 <= value < 2**53 else None
