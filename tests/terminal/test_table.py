"""Tables as they are printed."""

from __future__ import annotations

import io

from rich.console import Console

from app.terminal.table import Table, TableRow, rich_table, table

ROWS = (
    TableRow(("a", "1 KiB", "short")),
    TableRow(("[red]b[/red]", "11 KiB", "a text that needs two lines here"), "red"),
)


def printed(plain: Table, width: int, color: bool = False) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=color, color_system="standard" if color else None).print(
        rich_table(plain)
    )
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_columns_are_aligned_and_numbers_are_on_the_right():
    assert printed(table("NAME SIZE TEXT", ROWS, numbers="SIZE"), 80) == [
        "NAME            SIZE  TEXT",
        "a              1 KiB  short",
        "[red]b[/red]  11 KiB  a text that needs two lines here",
    ]


def test_the_last_column_continues_below_itself():
    assert printed(table("NAME SIZE TEXT", ROWS), 45)[2:] == [
        "[red]b[/red]  11 KiB  a text that needs two",
        "                      lines here",
    ]


def test_a_style_is_that_of_one_cell():
    *_, last = printed(table("NAME SIZE TEXT", ROWS, styled="SIZE"), 80, color=True)
    assert "\x1b[31m11 KiB\x1b[0m" in last
    assert last.count("\x1b[31m") == 1
