"""The command `engine list`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from app.commands.console import json_option, print_json, print_table
from app.commands.engine.engine_names import AUTO, engine_json
from app.terminal.table import Table, TableRow, table
from app.terminal.text import printable, size_cell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.entities.engines import InstalledEngine


@click.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """List the engines that `engine install` built.

    \b
    --json prints {"use": "auto", "engines": [{"name", "version", "backend", "architectures", "instruction_set",
    "source", "size_bytes", "path", "chosen"}]}; `architectures` are compute capabilities, such as "8.9"
    """
    from workers.engine.installed_engines import chosen_engine, installed_engines
    from workers.folders import cache_folder

    engines, chosen = installed_engines(cache_folder()), chosen_engine(cache_folder())
    if as_json:
        print_json({"use": chosen or AUTO, "engines": [engine_json(engine, chosen) for engine in engines]})
        return
    if not engines:
        click.echo("no engine is installed; `llama-smart-proxy engine install` builds one for this machine")
        return
    print_table(_table(engines, chosen), expendable=("SOURCE", "CPU"))
    if chosen and chosen not in [engine.name for engine in engines]:
        click.echo(f"`engine use` chose {printable(chosen)}, which is not installed: `engine use auto`")


def _table(engines: Sequence[InstalledEngine], chosen: str) -> Table:
    return table("NAME BACKEND CARDS CPU SIZE SOURCE USE", (_row(engine, chosen) for engine in engines), numbers="SIZE")


def _row(engine: InstalledEngine, chosen: str) -> TableRow:
    cells = (
        engine.name,
        str(engine.backend),
        ", ".join(engine.architectures),
        str(engine.instruction_set),
        size_cell(engine.size_bytes),
        engine.source,
        "chosen" if engine.name == chosen else "",
    )
    return TableRow(tuple(map(printable, cells)))
