"""What became of a request: an answer, a clear error, or neither. Pure.

A clear error is an engine's own error, passed on, or one of ours: a status and code of docs/errors.md, OpenAI's shape
with all four keys, and a Retry-After of 1 to 60 if there is one. A stream ends with [DONE], or with an error event.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

ERRORS = Path(__file__).resolve().parents[2] / "docs" / "errors.md"
KEYS = {"message", "type", "param", "code"}
LEFT = "left"  # the client disconnected on purpose
REFUSED, CUT = "connection refused, the service is down", "cut by a kill of the service"
BUGS = {"internal_error"}


@dataclass(slots=True)
class Answer:
    """What a client received. `problem`: why it is not a whole HTTP message, or why there is none."""

    model: str = ""
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    body: bytes = b""
    problem: str = ""
    seconds: float = 0.0
    is_refused: bool = False  # there was no connection


@dataclass(frozen=True, slots=True)
class Outcome:
    """`kind`: "200", a code of ours, "stream " and a code of ours, "engine " and a status, or LEFT. With a `problem` it
    is neither an answer nor a clear error."""

    kind: str
    problem: str = ""

    @property
    def is_answer(self) -> bool:
        return self.kind == "200" and not self.problem


@cache
def contract() -> frozenset[tuple[int, str]]:
    """Every status and code of ours."""
    rows = re.findall(r"^\| (\d+) \| `(\w+)`", ERRORS.read_text(), re.MULTILINE)
    return frozenset((int(status), code) for status, code in rows)


def outcome(answer: Answer) -> Outcome:
    if answer.problem:
        return Outcome("none", answer.problem)
    if "x-llama-smart-proxy-error" in answer.headers:
        return _our_error(answer)
    if answer.status >= 400:
        return Outcome(
            f"engine {answer.status}", "" if _error_in(answer.body) else f"no error object: {answer.body[:200]!r}"
        )
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        return _stream(answer.body)
    return Outcome(str(answer.status), "" if _parsed(answer.body) is not None else f"no JSON: {answer.body[:200]!r}")


def _our_error(answer: Answer) -> Outcome:
    error, retry_after = _error_in(answer.body), answer.headers.get("retry-after", "1")
    code = str(error.get("code"))
    if not set(error) >= KEYS or code in BUGS or (answer.status, code) not in contract():
        return Outcome(code, f"{answer.status} is not in docs/errors.md: {answer.body[:300]!r}")
    if not retry_after.isdigit() or not 1 <= int(retry_after) <= 60:
        return Outcome(code, f"Retry-After: {retry_after}")
    return Outcome(code)


def _stream(body: bytes) -> Outcome:
    events = [line.removeprefix(b"data: ") for line in body.splitlines() if line.startswith(b"data: ")]
    last = events[-1] if events else b""
    if last == b"[DONE]":
        return Outcome("200")
    error = _error_in(last)
    code = str(error.get("code"))
    if not error:
        return Outcome("stream", f"it ended with neither [DONE] nor an error: {body[-200:]!r}")
    if code in BUGS or code not in {known for _, known in contract()}:
        return Outcome(f"stream {code}", f"not in docs/errors.md: {last[:300]!r}")
    return Outcome(f"stream {code}")


def _error_in(body: bytes) -> dict[str, Any]:
    """The error object; empty if there is none."""
    parsed = _parsed(body)
    error = parsed.get("error") if isinstance(parsed, dict) else None
    return error if isinstance(error, dict) else {}


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
