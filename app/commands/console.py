"""Where commands print: colour only on a terminal and never with NO_COLOR, no line cut or wrapped in a pipe."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import click

from app.terminal.table import Table, fitted, rich_table

if TYPE_CHECKING:
    from rich.console import Console

PIPE_COLUMNS = 10_000  # no table is as wide

json_option: Callable[[Callable[..., None]], Callable[..., None]] = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object."
)


def console() -> Console:
    from rich.console import Console

    is_terminal = sys.stdout.isatty()
    return Console(highlight=False, markup=False, emoji=False, width=None if is_terminal else PIPE_COLUMNS)


def print_table(table: Table, expendable: Sequence[str] = ()) -> None:
    """`expendable`: columns that a narrow terminal does without, the first one first. A pipe gets them all."""
    out = console()
    table = fitted(table, out.width, expendable, keeps_names=True)
    with out.capture() as capture:
        out.print(rich_table(table))
    click.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))


def print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


def print_json(body: Any) -> None:
    click.echo(json.dumps(body, indent=2))


def has_color(stream: TextIO) -> bool:
    """By https://no-color.org, and not on a terminal that has none."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") not in (None, "", "dumb")


def dim(text: str) -> str:
    """For stderr."""
    return f"\x1b[2m{text}\x1b[0m" if has_color(sys.stderr) else text


def write(stream: TextIO, text: str) -> None:
    stream.write(text)
    stream.flush()
