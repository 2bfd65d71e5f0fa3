"""The command `engine remove`."""

from __future__ import annotations

import sys

import click

from app.commands.console import json_option, print_json
from app.commands.engine.engine_names import complete_engine, installed_or_exit
from app.commands.options import exit_no, exit_wrong_use
from app.terminal.text import printable, size_cell


@click.command("remove")
@click.argument("name", shell_complete=complete_engine)
@click.option("--yes", "-y", "is_sure", is_flag=True, help="Do not ask.")
@json_option
def remove_engine_command(name: str, is_sure: bool, as_json: bool) -> None:
    """Delete the installed engine NAME. Servers that run it go on until they end.

    With the last engine for CUDA, the toolkit that was installed from NVIDIA's packages is deleted, too.

    \b
    --json prints {"removed": "cuda-11549"}
    """
    from workers.engine_builds.engine_store import remove_engine
    from workers.folders import cache_folder

    engine = installed_or_exit(name)
    if not is_sure:
        _ask(f"delete the engine {printable(name)} ({size_cell(engine.size_bytes)})?")
    remove_engine(cache_folder(), name)
    if as_json:
        print_json({"removed": name})
    else:
        click.echo(f"removed {printable(name)}")


def _ask(question: str) -> None:
    """Ends the command if the answer is no."""
    if not sys.stdin.isatty():
        exit_wrong_use("engine remove asks before it deletes, and this is no terminal: add --yes")
    if not click.confirm(question, err=True):
        exit_no("nothing was deleted")
