"""Changed copies of frozen dataclasses."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

T = TypeVar("T")


def replace(value: T, **changes: Any) -> T:
    """Like dataclasses.replace, but faster for dataclasses without slots and __post_init__, by copying their __dict__.

    With twenty fields this takes 1 us instead of 3. Asserts that the fields exist.
    """
    fields = getattr(value, "__dict__", None)
    if fields is None:
        return dataclasses.replace(value, **changes)  # type: ignore[type-var]
    assert changes.keys() <= fields.keys(), f"{type(value).__name__} has no {changes.keys() - fields.keys()}"
    made = object.__new__(type(value))
    made.__dict__.update(fields, **changes)
    return made
