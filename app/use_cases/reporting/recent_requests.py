"""The last inference requests, as GET /status lists them. Never what they said."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

MAX_LISTED = 50


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One inference request that has ended."""

    at: float  # Unix seconds, of its end
    model: str | None  # None: no model has the name that it gave
    path: str
    status: int  # 499: the client disconnected
    wait_seconds: float | None  # until it had a slot; None: it got none
    seconds: float
    first_byte_seconds: float | None  # until its answer began
    prompt_tokens: int | None
    completion_tokens: int | None
    tokens_per_second: float | None  # of the completion
    key: str | None  # name of the client's API key


def requests_report(records: Iterable[RequestRecord], names_keys: bool) -> list[dict[str, object]]:
    """The newest first, as `records` are."""
    return [_entry(record, names_keys) for record in islice(records, MAX_LISTED)]


def _entry(record: RequestRecord, names_keys: bool) -> dict[str, object]:
    return {
        "at": round(record.at, 3),
        "model": record.model,
        "path": record.path,
        "status": record.status,
        "wait_seconds": _rounded(record.wait_seconds),
        "seconds": _rounded(record.seconds),
        "first_byte_seconds": _rounded(record.first_byte_seconds),
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
        "tokens_per_second": _rounded(record.tokens_per_second),
        "key": record.key if names_keys else None,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def tokens_per_second(tokens: int | None, generation_seconds: float | None) -> float | None:
    """None for a single token: nothing lies between it and the prompt."""
    if tokens is None or tokens < 2 or not generation_seconds or generation_seconds < 0:
        return None
    return tokens / generation_seconds
