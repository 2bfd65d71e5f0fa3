"""The command `engine`, and what its commands share."""

from __future__ import annotations

import click

from app.commands.engine.install import install_command
from app.commands.engine.list import list_command
from app.commands.engine.remove import remove_engine_command
from app.commands.engine.use import use_command


@click.group("engine")
def engine_command() -> None:
    """Build llama-server for this machine, and choose which one is used.

    Engines are kept in the cache directory of the user who runs this: run it as the service's user, or with its
    CACHE_DIRECTORY.
    """


for command in (install_command, list_command, use_command, remove_engine_command):
    engine_command.add_command(command)
