"""Tables without boxes: columns of plain text under their heads, numbers on the right."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import rich.table

GAP = 2  # columns between two columns


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


def table(heads: str, rows: Iterable[TableRow], numbers: str = "", styled: str = "") -> Table:
    """Heads as words of one text. A column that is empty in every row is left out."""
    rows = tuple(rows)
    words = heads.split()
    used = [i for i in range(len(words)) if not rows or any(row.cells[i] for row in rows)]
    kept = tuple(TableRow(tuple(row.cells[i] for i in used), row.style) for row in rows)
    return Table(tuple(words[i] for i in used), kept, frozenset(numbers.split()), styled)


def rich_table(plain: Table, selected: int | None = None) -> rich.table.Table:
    """The last column takes further lines where the terminal is too narrow; the others are cut. `selected`: a row."""
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for head in plain.heads:
        justify = "right" if head in plain.numbers else "left"
        is_last = head == plain.heads[-1]
        shown.add_column(Text(head), justify=justify, no_wrap=not is_last, overflow="fold" if is_last else "ellipsis")  # type: ignore[arg-type]
    for number, row in enumerate(plain.rows):
        cells = zip(plain.heads, row.cells, strict=True)
        texts = [Text(cell, style=row.style if head == plain.styled else "") for head, cell in cells]
        shown.add_row(*texts, style="reverse" if number == selected else "")
    return shown
