"""Tables as they are printed."""

from __future__ import annotations

import io

from rich.console import Console

from app.terminal.table import Table, TableRow, fitted, rich_table, table

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


LONG = (TableRow(("a-name-of-28-characters-here", "1 KiB", "a text that needs two lines here")),)


def test_a_narrow_table_goes_without_columns_before_it_cuts_names():
    plain = table("NAME SIZE TEXT", LONG)
    assert fitted(plain, 61, ["SIZE"], keeps_names=True) == plain
    narrow = fitted(plain, 60, ["SIZE"], keeps_names=True)
    assert narrow.heads == ("NAME", "TEXT")
    assert narrow.rows[0].cells[0] == "a-name-of-28-characters-here"
    assert fitted(plain, 50, ["SIZE"], keeps_names=True).rows[0].cells[0] == "a-name-of-28…acters-here"


def test_one_very_long_name_does_not_cost_all_others_their_columns():
    plain = table("NAME SIZE TEXT", (*LONG, TableRow(("n" * 90, "1 KiB", "short"))))
    narrow = fitted(plain, 90, ["SIZE"], keeps_names=True)
    assert narrow.heads == ("NAME", "SIZE", "TEXT")
    assert [len(row.cells[0]) for row in narrow.rows] == [28, 57]


def test_names_are_cut_first_where_each_row_is_one_line():
    narrow = fitted(table("NAME SIZE TEXT", LONG), 55, ["SIZE"])
    assert narrow.heads == ("NAME", "SIZE", "TEXT")
    assert len(narrow.rows[0].cells[0]) == 22
