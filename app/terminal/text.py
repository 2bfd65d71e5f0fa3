"""Numbers and names as people read them in a terminal."""

from __future__ import annotations

import unicodedata

from app.use_cases.reporting.phrases import GIB, duration_text, gib_text, rate_text, tokens_text

UNKNOWN = "-"


def printable(text: str) -> str:
    """One line, in which characters that cannot be seen, or that a terminal obeys, are escapes such as `\\x1b`."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def printable_lines(text: str) -> str:
    """The same of a text of several lines, such as an error with the last lines of an engine's log."""
    return "\n".join(printable(line.expandtabs()) for line in text.splitlines())


def printable_answer(text: str) -> str:
    """A piece of a model's answer, for a terminal: it may have any character but those that a terminal obeys."""
    return "".join(c if c in "\n\t" or not _is_control(c) else _escaped(c) for c in text if c != "\r")


def _is_control(character: str) -> bool:
    return not character.isprintable() and unicodedata.category(character) in ("Cc", "Cs")


def _escaped(character: str) -> str:
    return character if character.isprintable() else repr(character)[1:-1]


def size_cell(size_bytes: int | None) -> str:
    return UNKNOWN if size_bytes is None else gib_text(size_bytes)


def gib_number(size_bytes: int | None) -> str:
    """Without the unit, for `21.4/24.0 GiB`."""
    return "?" if size_bytes is None else f"{size_bytes / GIB:.1f}"


def tokens_cell(tokens: int | None) -> str:
    """Of a context."""
    return UNKNOWN if tokens is None else tokens_text(tokens)


def duration_cell(seconds: float | None) -> str:
    return UNKNOWN if seconds is None else duration_text(seconds)


def rate_cell(per_second: float | None) -> str:
    """Of tokens. Nothing is generated: a dash."""
    return rate_text(per_second) if per_second else UNKNOWN
