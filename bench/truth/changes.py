"""Differences between the recorded figures and another engine's: a line for each architecture and item."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.truth.table import HOST, Figures, Items, Start

# The table has thousandths of a MiB; what changes less than this changes no estimate.
SMALLEST_SHARE = 0.0005
SMALLEST_MIB = 0.01
QUICK_ROWS = 3  # of each architecture
_ITEMS = ("weights", "context", "compute")

Row = tuple[Start, Figures]


@dataclass(frozen=True, slots=True)
class Change:
    """Of one start."""

    item: str
    share: float  # 0.031: 3.1 % more than recorded
    mib: float


def changes(before: Figures, now: Figures) -> Iterator[Change]:
    """Every item that differs, on whichever device it differs most."""
    if bool(before.error) != bool(now.error):
        yield Change("does not start any more" if now.error else "starts now", 0.0, 0.0)
        return
    was, is_now = _by_item(before), _by_item(now)
    for item in sorted(was | is_now):
        devices = sorted(was.get(item, {}) | is_now.get(item, {}))
        each = [
            _change(item, was.get(item, {}).get(name, 0.0), is_now.get(item, {}).get(name, 0.0)) for name in devices
        ]
        largest = max(each, key=lambda change: abs(change.share))
        if largest.share:
            yield largest


def to_record(before: Figures, now: Figures) -> Figures:
    """The figures of now, but those of before if only their last digits differ."""
    return now if any(changes(before, now)) else before


def _change(item: str, was: float, is_now: float) -> Change:
    mib = is_now - was
    is_none = abs(mib) < max(SMALLEST_MIB, SMALLEST_SHARE * was)
    return Change(item, 0.0 if is_none else mib / max(was, SMALLEST_MIB), mib)


def _by_item(figures: Figures) -> Mapping[str, Mapping[str, float]]:
    found: dict[str, dict[str, float]] = defaultdict(dict)
    # By position, as in the table: --split-mode none has one device, whatever its number.
    for index, (name, items) in enumerate(figures.devices.items()):
        _add(found, "RAM " if name == HOST else "", HOST if name == HOST else str(index), items)
    for name, items in figures.draft.items():
        _add(found, "draft ", name, items)
    found["projector"] = dict(figures.projector)
    found["adapters"] = dict(figures.adapters)
    return {item: each for item, each in found.items() if each}


def _add(found: dict[str, dict[str, float]], prefix: str, device: str, items: Items) -> None:
    for item, mib in zip(_ITEMS, items, strict=True):
        found[f"{prefix}{item}"][device] = mib


def change_lines(rows: Iterable[tuple[str, Figures, Figures]], build: str) -> Iterator[str]:
    """A line for each architecture and item. `rows`: architecture, recorded figures and those of now."""
    found: dict[tuple[str, str], list[Change]] = defaultdict(list)
    counts: dict[str, int] = defaultdict(int)
    for architecture, before, now in rows:
        counts[architecture] += 1
        for change in changes(before, now):
            found[architecture, change.item].append(change)
    for (architecture, item), each in sorted(found.items()):
        yield _line(architecture, item, each, counts[architecture], build)


def _line(architecture: str, item: str, each: Sequence[Change], rows: int, build: str) -> str:
    most = max(each, key=lambda change: abs(change.share))
    size = f" {100 * most.share:+.1f} % ({most.mib:+.1f} MiB)" if most.share else ""
    return f"{architecture}: {item}{size} since {build}, {len(each)} of {rows} rows"


def sample(rows: Sequence[Row], count: int = QUICK_ROWS) -> list[Row]:
    """Some of an architecture's, from all over its table."""
    step = max(1, len(rows) // count)
    return list(rows[step // 2 :: step])[:count]
