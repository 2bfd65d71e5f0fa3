"""Numbers and names as people read them in a terminal."""

from __future__ import annotations

UNKNOWN = "-"
_SIZES = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))
_TOKENS = (("M", 1 << 20), ("k", 1 << 10))
_TIMES = (("d", 86_400), ("h", 3_600), ("min", 60))


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
    return not character.isprintable() and (character < " " or "\x7f" <= character < "\xa0")


def _escaped(character: str) -> str:
    return character if character.isprintable() else repr(character)[1:-1]


def bytes_text(size_bytes: float | None) -> str:
    """`11.2 GiB`, `377 GiB`."""
    if size_bytes is None:
        return UNKNOWN
    unit, factor = next((each for each in _SIZES if size_bytes >= each[1]), _SIZES[-1])
    return f"{_rounded(size_bytes / factor)} {unit}"


def gib_text(size_bytes: float | None) -> str:
    """Without the unit, for `21.4/24.0 GiB`."""
    return "?" if size_bytes is None else f"{size_bytes / (1 << 30):.1f}"


def tokens_text(tokens: int | None) -> str:
    """`512`, `9.1k`, `32k`: contexts are powers of two, so that k is 1024."""
    if tokens is None:
        return UNKNOWN
    for unit, factor in _TOKENS:
        if tokens >= factor:
            return f"{tokens / factor:.1f}".removesuffix(".0") + unit
    return str(tokens)


def duration_text(seconds: float | None) -> str:
    """`41 s`, `4 min`, `2 h 5 min`, `3 d`."""
    if seconds is None:
        return UNKNOWN
    unit, factor = next((each for each in _TIMES if seconds >= each[1]), ("s", 1))
    text = f"{seconds // factor:.0f} {unit}"
    minutes = seconds % 3_600 // 60
    return f"{text} {minutes:.0f} min" if unit == "h" and minutes else text


def rate_text(per_second: float | None) -> str:
    """Of tokens: `58`, and `4.2` where a decimal says something."""
    return _rounded(per_second, 10) if per_second else UNKNOWN


def _rounded(number: float, whole_from: float = 100) -> str:
    return f"{number:.0f}" if number >= whole_from else f"{number:.1f}"
