"""Tables without boxes: columns of plain text under their heads, numbers on the right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import rich.table

GAP = 2  # spaces between two columns
LEAST_NAME = 20  # characters of a name that is cut
WHOLE_NAME = 50  # characters up to which a name is worth more than a column: "user/Qwen3-30B-A3B-Instruct-2507:Q4_K_M"
LEAST_LAST = 24  # cells in which the last column can be read, whose cells take further lines


@dataclass(frozen=True, slots=True)
class TableRow:
    """`style`, one of rich's, is that of the cell under the table's `styled` head. The cells are `printable`."""

    cells: tuple[str, ...]
    style: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """`numbers`: the heads of columns that are aligned on the right."""

    heads: tuple[str, ...]
    rows: tuple[TableRow, ...]
    numbers: frozenset[str] = frozenset()
    styled: str = ""


def table(
    heads: str, rows: Iterable[TableRow], numbers: str = "", styled: str = "", keeps_columns: bool = False
) -> Table:
    """Heads as words of one text. A column that is empty in every row is left out, if not `keeps_columns`."""
    rows = tuple(rows)
    words = heads.split()
    used = [i for i in range(len(words)) if keeps_columns or not rows or any(row.cells[i] for row in rows)]
    kept = tuple(TableRow(tuple(row.cells[i] for i in used), row.style) for row in rows)
    return Table(tuple(words[i] for i in used), kept, frozenset(numbers.split()), styled)


def fitted(plain: Table, width: int, expendable: Sequence[str], keeps_names: bool = False) -> Table:
    """The table in `width` cells: columns are left out in the order of `expendable`, then names, in the first column,
    are cut in the middle. `keeps_names`: those of up to WHOLE_NAME characters are cut only once no column is left to
    be left out."""
    least = WHOLE_NAME if keeps_names else LEAST_NAME
    for head in expendable:
        if _width(_shortened(plain, least)) > width:
            plain = _without(plain, head)
    longest = max((_cells(row.cells[0]) for row in plain.rows), default=0)
    return _shortened(plain, max(LEAST_NAME, longest - max(0, _width(plain) - width)))


def _without(plain: Table, head: str) -> Table:
    kept = [i for i, each in enumerate(plain.heads) if each != head]
    rows = tuple(replace(row, cells=tuple(row.cells[i] for i in kept)) for row in plain.rows)
    return replace(plain, heads=tuple(plain.heads[i] for i in kept), rows=rows)


def _shortened(plain: Table, cells: int) -> Table:
    rows = (replace(row, cells=(cut_in_the_middle(row.cells[0], cells), *row.cells[1:])) for row in plain.rows)
    return replace(plain, rows=tuple(rows))


def cut_in_the_middle(name: str, cells: int) -> str:
    """Names of models differ at both ends."""
    from rich.cells import set_cell_size

    if _cells(name) <= cells:
        return name
    end = (cells - 1) // 2
    return set_cell_size(name, cells - 1 - end) + "…" + set_cell_size(name[::-1], end)[::-1]


def _width(plain: Table) -> int:
    columns = zip(plain.heads, *(row.cells for row in plain.rows), strict=True)
    *widths, last = (max(map(_cells, column)) for column in columns)
    return sum(widths) + min(last, LEAST_LAST) + GAP * len(widths)


def _cells(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def rich_table(plain: Table, selected: int | None = None) -> rich.table.Table:
    """The last column takes further lines where the terminal is too narrow; the others are cut. `selected`: a row."""
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for head in plain.heads:
        is_last = head == plain.heads[-1]
        overflow: Literal["fold", "ellipsis"] = "fold" if is_last else "ellipsis"
        justify: Literal["right", "left"] = "right" if head in plain.numbers else "left"
        shown.add_column(Text(head), justify=justify, no_wrap=not is_last, overflow=overflow)
    for number, row in enumerate(plain.rows):
        cells = zip(plain.heads, row.cells, strict=True)
        texts = [Text(cell, style=row.style if head == plain.styled else "") for head, cell in cells]
        shown.add_row(*texts, style="reverse" if number == selected else "")
    return shown
