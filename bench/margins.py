"""What to book on top of the estimates, from all measured rows: python -m bench.margins

Writes app/use_cases/estimate/margin_table.py: for every architecture and kind of start the number of rows, the error
of the worst, the two shares (of the total and of the compute buffer) that cover every row at the least cost, and which
ubatch sizes and slots were measured.
Run it when a rule changed or rows were added.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

from app.use_cases.estimate import compute, margin_table
from app.use_cases.estimate.companions import NO_COMPANIONS
from app.use_cases.estimate.estimate import estimate_memory
from app.use_cases.estimate.families import ANY_FAMILY, WITH_COMPANIONS, Agreement, MeasuredSettings, StartKind, kinds
from app.use_cases.estimate.kv_cache import tokens_at_once
from app.use_cases.estimate.tensor_split import device_layers
from app.use_cases.model_shape.shape import ModelShape
from bench.truth.table import read_all
from bench.vram_truth import Row, pairs, row_of

TINY_BYTES = 2048  # the truth is printed to a thousandth of a MiB
TOTAL_SHARES = (0, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1)  # tried
RESERVE = 1.1  # rows that have not been measured may be off by a little more


@dataclass(frozen=True, slots=True)
class Comparison:
    """One device of a row: bytes as estimated, and what is missing."""

    family: str
    kind: StartKind
    total: int
    compute: int
    missing: float  # negative if too much was estimated
    error: float = 0.0  # as a share of what it takes
    tokens: int = 0  # of a ubatch
    slots: int = 0


def comparisons(row: Row, shape: ModelShape) -> Iterator[Comparison]:
    """Of each device, and without any of the RAM."""
    of = kinds(row.options, shape.hparams.n_layer_all)
    estimate = estimate_memory(shape, row.options, companions=row.companions)
    settings = tokens_at_once(shape, row.options), row.options.parallel
    ranges = device_layers(shape.hparams, row.options)
    booked = [compute.uncertain_bytes(shape, row.options, ranges), *[0] * len(row.devices)]
    for (device, truth), more in zip(pairs(estimate, row), booked, strict=False):
        total = device.weights_bytes + device.context_bytes + device.compute_bytes
        missing = sum(truth) - total
        if total or missing > TINY_BYTES:
            found = 0 if abs(missing) <= TINY_BYTES else missing
            sizes = total + more, device.compute_bytes, found - more
            yield Comparison(_family(row, shape), of[-1], *sizes, abs(found) / max(1, total + found), *settings)


def _family(row: Row, shape: ModelShape) -> str:
    has_more = row.companions != NO_COMPANIONS or row.options.speculation != "none"
    return WITH_COMPANIONS if has_more else shape.hparams.architecture


def table(compared: Iterable[Comparison]) -> str:
    """The lines of the table: an architecture, and its kinds."""
    cells: dict[str, dict[StartKind, Agreement]] = defaultdict(dict)
    for (family, kind), each in itertools.groupby(sorted(compared, key=_key), key=_key):
        cells[family][StartKind(kind)] = _agreement(list(each))
    families = [each for family, each in cells.items() if family != WITH_COMPANIONS]
    cells[ANY_FAMILY] = {kind: _usual([each[kind] for each in families if kind in each]) for kind in StartKind}
    return "\n".join(_line(family, each) for family, each in sorted(cells.items()))


def _key(one: Comparison) -> tuple[str, str]:
    return one.family, one.kind.value


def _agreement(compared: list[Comparison]) -> Agreement:
    total_share, compute_share = min(_covering(compared), key=lambda pair: _cost(compared, *pair))
    sizes = {one.tokens for one in compared}
    settings = MeasuredSettings(len(sizes), min(sizes), max(sizes), max(one.slots for one in compared))
    return Agreement(len(compared), max(one.error for one in compared), total_share, compute_share, settings)


def _covering(compared: list[Comparison]) -> Iterator[tuple[float, float]]:
    """Pairs of shares that cover every row."""
    for total_share in TOTAL_SHARES:
        missing = [(one.missing * RESERVE - total_share * one.total, one.compute) for one in compared]
        yield total_share, max(0.0, *(left / size if size else 0.0 for left, size in missing))


def _cost(compared: list[Comparison], total_share: float, compute_share: float) -> float:
    return sum(total_share + compute_share * one.compute / max(1, one.total) for one in compared)


def _usual(each: list[Agreement]) -> Agreement:
    """Shares that cover nine of ten architectures."""
    if not each:
        return Agreement(0, 0.0, 0.0, 0.0)
    columns = zip(*((one.rows, one.error, one.total_share, one.compute_share) for one in each), strict=True)
    rows, *shares = (sorted(column)[int(0.9 * (len(each) - 1))] for column in columns)
    return Agreement(int(rows), *shares)


def _line(family: str, cells: Mapping[StartKind, Agreement]) -> str:
    return " ".join((family, *(_cell(kind, one) for kind, one in cells.items())))


def _cell(kind: StartKind, one: Agreement) -> str:
    shares = _percents(one.error, one.total_share, one.compute_share)
    return ":".join((kind, str(one.rows), shares, *map(str, astuple(one.settings))))


def _percents(error: float, *shares: float) -> str:
    up = (math.ceil(1000 * share) / 10 for share in shares)
    return ":".join((f"{100 * error:.3g}", *(f"{each:g}" for each in up)))


def module(text: str) -> str:
    """The source of margin_table.py."""
    return f'''"""Margins by architecture and kind of start. Written by `python -m bench.margins`: do not edit.

A line is an architecture and its kinds, each KIND:ROWS:ERROR:TOTAL:COMPUTE:UBATCHES:SMALLEST:LARGEST:SLOTS: measured
devices, the worst error and the shares to book of the total and of the compute buffer, in percent, how many sizes of a
ubatch were measured, the smallest and the largest of them, and the most slots.
`{ANY_FAMILY}` is what covers nine of ten architectures, `{WITH_COMPANIONS}` starts with further files.
"""
# ruff: noqa: E501

TABLE = """\\
{text}"""
'''


def main() -> None:
    from bench.estimate import shape_of  # draws with matplotlib, if that is installed

    every = (row_of(start, figures) for start, figures in read_all() if not figures.error)
    warm = (row for row in every if "--no-warmup" not in row.args)
    compared = (one for row in warm for one in comparisons(row, shape_of(row.shape, row.quant)))
    Path(margin_table.__file__).write_text(module(table(compared)))


if __name__ == "__main__":
    main()
