"""What a request may wish beside its answer: how long its model is kept, and how much context it wants.

Fields that ollama's and LM Studio's clients send. The engine reads over them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from app.errors import InvalidRequest

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
MOST_CHARACTERS = 40  # of a time; _PART takes the square of a long one, and holds Python's lock meanwhile
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def keep_alive_seconds(pairs: Iterable[tuple[str, object]]) -> float | None:
    """For how long the model is to stay after its answer: by `keep_alive` or `ttl`, seconds or as "1h30m". Below zero
    it stays until its room is needed; None: nothing is said. Raises InvalidRequest."""
    said = [(key, value) for key, value in pairs if key in ("keep_alive", "ttl") and value is not None]
    if not said:
        return None
    key, value = said[-1]
    seconds = _seconds(value)
    if seconds is None:
        how = '300 or "5m"; 0: it goes after the answer; below zero: it stays until its room is needed'
        raise InvalidRequest(f"{key} is neither seconds nor a duration; write it like {how}", param=key)
    return math.inf if seconds < 0 else seconds


def _seconds(value: object) -> float | None:
    if isinstance(value, float) and not math.isnan(value):
        return value
    if not isinstance(value, str) or len(value) > MOST_CHARACTERS:
        return None
    sign, text = (-1.0, value[1:]) if value.startswith("-") else (1.0, value)
    if re.fullmatch(r"\d+(?:\.\d+)?", text):
        return sign * float(text)
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sign * sum(float(number) * _SECONDS[unit] for number, unit in parts)


def wanted_context(pairs: Iterable[tuple[str, object]]) -> int | None:
    """Tokens, by `num_ctx` or `options.num_ctx`; None: nothing is said, or not as a number."""
    for key, value in pairs:
        if key == "options" and isinstance(value, tuple):
            if (
                inner := wanted_context(pair for pair in value if isinstance(pair, tuple) and len(pair) == 2)
            ) is not None:
                return inner
        elif key == "num_ctx" and isinstance(value, float) and value.is_integer():
            return int(value)
    return None
