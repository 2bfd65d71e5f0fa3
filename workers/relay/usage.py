"""UsageMeter: counts the tokens of one answer while its body passes.

llama-server (b11549) reports them as `usage` or `timings`: in the JSON of an answer, in front of the vectors of an
embedding, in one of the last events of a stream, in its first one (the prompt of Anthropic's messages), once for each
of several prompts, or with every token (`timings_per_token`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import inf
from typing import Any, TypeVar

from app.entities.token_usage import TokenUsage

KEPT_BYTES = 1024  # of a piece that ends in mid-event: a report is shorter
_MAY_REPORT = re.compile(rb'"(?:usage|timings)":').search
Counts = tuple[int | None, int | None, float | None]  # tokens of prompt and completion; milliseconds of the latter
UNKNOWN: Counts = (None, None, None)
T = TypeVar("T", int, float)
_EVENT = b"data: {"
_EVENT_ENDS = (b"\n\n", b"\n\n\r\n")  # the latter with its chunk
# The quotes of a text are escaped, so none can have a report. Possessive: no failed search begins anew. The index of a
# tool call has one of these behind it.
_REPORT = re.compile(
    rb'"index":\s*(\d{1,9}+)(?!,"(?:id|type|function)")|"(?:usage|timings)":\s*(\{(?:[^{}]++|\{[^{}]*+\})*+\})'
)


class UsageMeter:
    """Used by whoever moves the body, and after it by the request's thread."""

    __slots__ = ("_counts", "_index", "_last_index", "_unread", "events", "is_stream", "received_bytes")

    def __init__(self, is_stream: bool) -> None:
        self.is_stream = is_stream
        self.received_bytes = 0  # of the body
        self.events = 0  # of a stream: nearly always one for each token
        self._unread = b""  # what a report in the next piece may have begun with
        self._index = -1  # of the prompt, or choice, that is being reported
        self._last_index = 0  # the highest
        self._counts: dict[int, Counts] = {}  # by that

    def read(self, piece: bytes) -> None:
        """The next piece of the body; of a stream it may be one whole chunk with its framing."""
        self.received_bytes += len(piece)
        if self.is_stream:  # this runs once for each token of each stream
            self.events += piece.count(_EVENT)
            if piece.endswith(_EVENT_ENDS) and not self._unread:
                if _MAY_REPORT(piece):
                    self._note(piece)
                return
        text = self._unread + piece
        end = self._note(text)
        is_between_events = self.is_stream and piece.endswith(_EVENT_ENDS)
        self._unread = b"" if is_between_events else text[max(end, len(text) - KEPT_BYTES) :]

    def usage(self) -> TokenUsage:
        """What the answer has reported so far, of all prompts and choices."""
        reports = zip(*self._counts.values(), strict=True) if self._counts else ((), (), ())
        prompt, completion, milliseconds = map(_sum_of_known, reports)
        # In the JSON of OpenAI's completions and chats, `usage` is that of one choice. Embeddings have one sum.
        is_whole = self.is_stream or completion is None or self._last_index < len(self._counts)
        return TokenUsage(prompt, completion, is_whole, None if milliseconds is None else milliseconds / 1000)

    def _note(self, text: bytes) -> int:
        """Take the reports in this text; returns where the last one ends."""
        end = 0
        for match in _REPORT.finditer(text):
            end = match.end()
            if match[1]:
                self._index = int(match[1])
                self._last_index = max(self._last_index, self._index)
            else:
                known = self._counts.get(self._index, UNKNOWN)
                # The same answer may report twice, and with `timings_per_token` each report has the sum so far.
                self._counts[self._index] = tuple(map(_larger, known, _counts_of(match[2])))  # type: ignore[assignment]
        return end


def _counts_of(text: bytes) -> Counts:
    """What one report says."""
    try:
        report = json.loads(text)
    except ValueError:
        return UNKNOWN
    if "prompt_n" in report or "predicted_n" in report:  # llama-server's own timings
        return _sum(report, "prompt_n", "cache_n"), _count(report, "predicted_n"), _milliseconds(report)
    if "input_tokens" in report or "output_tokens" in report:
        # OpenAI's responses count cached tokens among the input, Anthropic's messages beside it.
        cached = _count(report, "cache_read_input_tokens") or 0
        prompt = _count(report, "input_tokens")
        return None if prompt is None else prompt + cached, _count(report, "output_tokens"), None
    return _count(report, "prompt_tokens"), _count(report, "completion_tokens"), None


def _sum(report: Mapping[str, Any], *names: str) -> int | None:
    """None unless it has them all: a client can choose which it gets, by `response_fields`."""
    counts = [_count(report, name) for name in names]
    return None if None in counts else sum(filter(None, counts))


def _count(report: Mapping[str, Any], name: str) -> int | None:
    value = report.get(name)
    return value if type(value) is int and 0 <= value < 2**53 else None


def _milliseconds(report: Mapping[str, Any]) -> float | None:
    value = report.get("predicted_ms")
    return float(value) if isinstance(value, int | float) and 0 <= value < inf else None


def _larger(one: T | None, other: T | None) -> T | None:
    return max((count for count in (one, other) if count is not None), default=None)


def _sum_of_known(counts: tuple[T | None, ...]) -> T | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
