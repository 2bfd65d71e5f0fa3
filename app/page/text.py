"""Numbers as people read them on the page; None is unknown and shows as a dash.

The same as templates/static/format.js.
"""

from __future__ import annotations

from datetime import datetime

from app.use_cases.reporting.phrases import GIB, duration_text, gib_text

UNKNOWN = "\N{EN DASH}"
_TOKENS = (("M", 1 << 20), ("k", 1 << 10))
_COUNTS = (("G", 10**9), ("M", 10**6), ("k", 10**3))


def size(size_bytes: float | None) -> str:
    return UNKNOWN if size_bytes is None else gib_text(int(size_bytes))


def gib(size_bytes: float | None) -> str:
    """Without the unit, for `21.4 of 24.0 GiB`."""
    return UNKNOWN if size_bytes is None else f"{size_bytes / GIB:.1f}"


def tokens(number: float | None) -> str:
    """Of a context: `512`, `9.1k`, `32k`. Contexts are powers of two, so k is 1024."""
    return UNKNOWN if number is None else _scaled(number, _TOKENS)


def count(number: float | None) -> str:
    """`950`, `412k`: requests, and tokens that were processed."""
    return UNKNOWN if number is None else _scaled(number, _COUNTS)


def _scaled(number: float, units: tuple[tuple[str, int], ...]) -> str:
    for unit, factor in units:
        if number >= factor:
            scaled = number / factor
            return (f"{scaled:.0f}" if scaled >= 99.95 else f"{scaled:.1f}".removesuffix(".0")) + unit
    return f"{number:.0f}"


def rate(per_second: float | None) -> str:
    """Of tokens: `58`, `4.2`, `1.2k`. Nothing is generated: a dash."""
    if not per_second:
        return UNKNOWN
    return f"{per_second:.1f}" if per_second < 9.95 else count(per_second)


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
