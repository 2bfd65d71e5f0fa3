"""What to book on top of the estimates, from all measured rows: python -m bench.margins

Writes app/use_cases/estimate/margin_table.py: for every architecture and kind of start the number of rows, the error
of the worst, and the two shares (of the total and of the compute buffer) that cover every row at the least cost.
Run it when a rule changed or rows were added.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from app.use_cases.estimate import compute, margin_table
from app.use_cases.estimate.companions import NO_COMPANIONS
from app.use_cases.estimate.estimate import estimate_memory
from app.use_cases.estimate.families import ANY_FAMILY, WITH_COMPANIONS, StartKind, kinds
from app.use_cases.estimate.tensor_split import device_layers
from app.use_cases.model_shape.shape import ModelShape
from bench.truth.table import read_all
from bench.vram_truth import Row, row_of

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


def comparisons(row: Row, shape: ModelShape) -> Iterator[Comparison]:
    """Of each device; nothing if the row has no kind."""
    of = kinds(row.options, shape.hparams.n_layer_all)
    estimate = estimate_memory(shape, row.options, companions=row.companions)
    ranges = device_layers(shape.hparams, row.options)
    booked = [compute.uncertain_bytes(shape, row.options, ranges), *[0] * len(row.devices)]
    for device, truth, more in zip(estimate.devices, row.devices, booked, strict=False):
        total = device.weights_bytes + device.context_bytes + device.compute_bytes
        missing = sum(truth) - total
        if of and (total or missing > TINY_BYTES):
            found = 0 if abs(missing) <= TINY_BYTES else missing
            yield Comparison(_family(row, shape), of[-1], total + more, device.compute_bytes, found - more)


def _family(row: Row, shape: ModelShape) -> str:
    has_more = row.companions != NO_COMPANIONS or row.options.speculation != "none"
    return WITH_COMPANIONS if has_more else shape.hparams.architecture


def table(compared: Iterable[Comparison]) -> str:
    """The lines of the table: an architecture, and its kinds."""
    cells: dict[str, dict[StartKind, tuple[int, float, float, float]]] = defaultdict(dict)
    for (family, kind), each in itertools.groupby(sorted(compared, key=_key), key=_key):
        cells[family][StartKind(kind)] = _cell(list(each))
    families = [each for family, each in cells.items() if family != WITH_COMPANIONS]
    cells[ANY_FAMILY] = {kind: _usual([each[kind] for each in families if kind in each]) for kind in StartKind}
    return "\n".join(_line(family, each) for family, each in sorted(cells.items()))


def _key(one: Comparison) -> tuple[str, str]:
    return one.family, one.kind.value


def _cell(compared: list[Comparison]) -> tuple[int, float, float, float]:
    error = max(abs(one.missing) / max(1, one.total + one.missing) for one in compared)
    return len(compared), error, *min(_covering(compared), key=lambda pair: _cost(compared, *pair))


def _covering(compared: list[Comparison]) -> Iterator[tuple[float, float]]:
    """Pairs of shares that cover every row."""
    for total_share in TOTAL_SHARES:
        missing = [(one.missing * RESERVE - total_share * one.total, one.compute) for one in compared]
        yield total_share, max(0.0, *(left / size if size else 0.0 for left, size in missing))


def _cost(compared: list[Comparison], total_share: float, compute_share: float) -> float:
    return sum(total_share + compute_share * one.compute / max(1, one.total) for one in compared)


def _usual(each: list[tuple[int, float, float, float]]) -> tuple[int, float, float, float]:
    """What covers nine of ten architectures."""
    columns = [sorted(column) for column in zip(*each, strict=True)] or [[0]] * 4
    rows, error, total, share = (column[int(0.9 * (len(column) - 1))] for column in columns)
    return int(rows), error, total, share


def _line(family: str, cells: dict[StartKind, tuple[int, float, float, float]]) -> str:
    found = (f"{kind}:{rows}:{_percents(*shares)}" for kind, (rows, *shares) in cells.items())
    return " ".join((family, *found))


def _percents(error: float, *shares: float) -> str:
    up = (math.ceil(1000 * share) / 10 for share in shares)
    return ":".join((f"{100 * error:.3g}", *(f"{each:g}" for each in up)))


def module(text: str) -> str:
    """The source of margin_table.py."""
    return f'''"""Margins by architecture and kind of start. Written by `python -m bench.margins`: do not edit.

A line is an architecture and its kinds, each KIND:ROWS:ERROR:TOTAL:COMPUTE: measured devices, the worst error, and the
shares to book of the total and of the compute buffer, in percent.
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
