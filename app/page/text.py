"""Numbers as people read them on the page; None is unknown and shows as a dash.

The same as templates/static/format.js.
"""

from __future__ import annotations

from datetime import datetime

from app.use_cases.reporting.phrases import GIB, count_text, duration_text, gib_text, rate_text, tokens_text

UNKNOWN = "\N{EN DASH}"


def size(size_bytes: float | None) -> str:
    return UNKNOWN if size_bytes is None else gib_text(int(size_bytes))


def gib(size_bytes: float | None) -> str:
    """Without the unit, for `21.4 of 24.0 GiB`."""
    return UNKNOWN if size_bytes is None else f"{size_bytes / GIB:.1f}"


def tokens(number: float | None) -> str:
    """Of a context."""
    return UNKNOWN if number is None else tokens_text(number)


def count(number: float | None) -> str:
    return UNKNOWN if number is None else count_text(number)


def rate(per_second: float | None) -> str:
    """Of tokens. Nothing is generated: a dash."""
    return rate_text(per_second) if per_second else UNKNOWN


def duration(seconds: float | None) -> str:
    return UNKNOWN if seconds is None else duration_text(seconds)


def short_duration(seconds: float | None) -> str:
    """`184 ms`, `9.2 s`, `2 min`: where tenths of a second count."""
    if seconds is None:
        return UNKNOWN
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 9.95 else duration_text(seconds)


def whole(number: float | None, unit: str) -> str:
    return UNKNOWN if number is None else f"{number:.0f} {unit}"


def percent(share: float) -> str:
    """Of a geometry: `46.7%`."""
    return f"{100 * share:.2f}%"


def moment(at: float) -> dict[str, str]:
    """Of Unix seconds: the machine's local time, which scripts turn into the reader's."""
    local = datetime.fromtimestamp(at).astimezone()
    return {"iso": local.isoformat(timespec="seconds"), "time": f"{local:%H:%M:%S}"}
