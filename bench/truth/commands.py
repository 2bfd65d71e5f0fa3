"""What the commands of bench.truth do with measured rows."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from bench.truth.architectures import architectures_in, list_changes
from bench.truth.changes import Row, change_lines, sample, to_record
from bench.truth.measure import Bench
from bench.truth.table import (
    ROWS,
    Figures,
    Recorded,
    Start,
    read_by_architecture,
    read_rows,
    recorded,
    write_recorded,
    write_rows,
)
from bench.truth.tool import engine_source, engine_version
from bench.vram_truth import header

_REPORT_EVERY = 50


def measured(bench: Bench, starts: Iterable[Start], processes: int) -> Iterator[tuple[Start, Figures]]:
    """Reports progress on stderr."""
    ordered = list(starts)
    for done, row in enumerate(bench.all_figures(ordered, processes), 1):
        if done % _REPORT_EVERY == 0 or done == len(ordered):
            print(f"{done} of {len(ordered)}", file=sys.stderr, flush=True)
        yield row


def of_file(file: Path) -> list[Row]:
    return list(read_rows(file))


def check(rows: Iterable[Row]) -> None:
    """Print how the estimates do, by kind of start, then each device that is off by more than 2 %."""
    from bench.estimate import account, errors, is_off, kind, show  # draws with matplotlib, if that is installed
    from bench.vram_truth import row_of

    found = [
        (row, each)
        for start, figures in rows
        if not figures.error
        for row in [row_of(start, figures)]
        for each in errors(row)
    ]
    groups: dict[str, list[float]] = defaultdict(list)
    for row, each in found:
        groups[kind(row)].append(each["total"])
        groups["all"].append(each["total"])
    show({name: account(values) for name, values in sorted(groups.items())})
    for row, each in sorted(filter(is_off, found), key=lambda pair: pair[1]["total"]):
        print(
            f"{100 * each['total']:+.1f} %, booked {100 * each['booked']:+.1f} %: {row.shape} {row.quant}, "
            f"GPUs: {len(row.devices)}, {row.args}"
        )


def add(rows: Iterable[Row]) -> None:
    """Behind those of the same architecture. Raises CannotContinue, if they are of another engine."""
    found = defaultdict(list, read_by_architecture())
    for start, figures in rows:
        found[header(start.shape, start.quant).architecture].append((start, figures))
    _write(found)


def changed(bench: Bench, sdist: Path | None, work: Path, quick: bool, record: bool, processes: int) -> int:
    """Print what differs; 1 if anything does."""
    before = recorded()
    by_architecture = {name: sample(rows) if quick else rows for name, rows in read_by_architecture().items()}
    flat = [(name, *row) for name, rows in by_architecture.items() for row in rows]
    now = [figures for _, figures in measured(bench, (start for _, start, _ in flat), processes)]
    architectures = architectures_in(engine_source(sdist, work).folder)
    rows = ((name, figures, said) for (name, _, figures), said in zip(flat, now, strict=True))
    lines = [*list_changes(before.architectures, architectures), *change_lines(rows, before.build)]
    print(*lines or [f"nothing changed since {before.build}: {len(now)} rows"], sep="\n")
    if record and not quick:
        _record(flat, now, Recorded(engine_version(), architectures))
    return int(bool(lines))


def _record(flat: list[tuple[str, Start, Figures]], now: list[Figures], said: Recorded) -> None:
    found: dict[str, list[Row]] = defaultdict(list)
    for (name, start, before), figures in zip(flat, now, strict=True):
        found[name].append((start, to_record(before, figures)))
    _write(found)
    write_recorded(said)


def _write(found: Mapping[str, Iterable[Row]]) -> None:
    for name, rows in found.items():
        write_rows(ROWS / f"{name}.csv", rows)
