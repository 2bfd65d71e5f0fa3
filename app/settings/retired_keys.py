"""Retired keys: accepted without effect for a year after they were removed or renamed.

Each is declared once, in RETIRED. Its uses are dropped before validation, and `serve` and `check-config` print one
warning for each, which names the replacement. docs/upgrading.md has a row for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Place = tuple[str | int, ...]  # ("models", "qwen", "ctx_size")

ANY = "*"  # in a retired place: any name or index


@dataclass(frozen=True, slots=True)
class RetiredKey:
    """A key that was removed from the settings."""

    place: tuple[str, ...]
    replacement: str  # what to do instead, as an imperative
    since: str  # ISO date; a year later the entry is deleted, and the key is unknown

    @property
    def warning(self) -> str:
        return f"ignored, retired on {self.since}: {self.replacement}"


RETIRED = (
    RetiredKey(
        ("server", "cpu"),
        "to pin the service to CPUs, set CPUAffinity= in its systemd unit",
        since="2026-12-01",
    ),
)


def find_retired_keys(data: Any, retired: Iterable[RetiredKey] = RETIRED) -> dict[Place, RetiredKey]:
    """The retired keys that nested mappings and lists still set, by place."""
    return {place: key for key in retired for place in _matches(data, key.place)}


def without_retired_keys(data: Any, retired: Iterable[RetiredKey] = RETIRED) -> Any:
    """`data` without the retired keys. The original is not changed."""
    for place in find_retired_keys(data, retired):
        data = _without(data, place)
    return data


def _matches(value: Any, pattern: tuple[str, ...]) -> Iterator[Place]:
    if not pattern:
        yield ()
        return
    for name, child in _children(value):
        if pattern[0] in (ANY, name):
            yield from ((name, *rest) for rest in _matches(child, pattern[1:]))


def _children(value: Any) -> Iterable[tuple[str | int, Any]]:
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, list) else ()


def _without(value: Any, place: Place) -> Any:
    copy = value.copy()
    if len(place) == 1:
        del copy[place[0]]
    else:
        copy[place[0]] = _without(copy[place[0]], place[1:])
    return copy
