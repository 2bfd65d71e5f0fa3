"""The command `engine use`."""

from __future__ import annotations

from pathlib import Path

import click

from app.commands.check_config import config_option
from app.commands.console import json_option, print_json
from app.commands.engine.engine_names import AUTO, complete_engine, installed_or_exit
from app.commands.options import read_settings


@click.command("use")
@click.argument("name", shell_complete=complete_engine)
@config_option
@json_option
def use_command(name: str, config: Path | None, as_json: bool) -> None:
    """Use the installed engine NAME, or `auto`: the service's own choice.

    It counts where `engine.binary` in the configuration is `auto`, from the next start of the service on.

    \b
    --json prints {"use": "cuda-11549"}
    """
    from workers.engine_builds.registry import choose_engine
    from workers.folders import cache_folder

    if name != AUTO:
        installed_or_exit(name)
    choose_engine(cache_folder(), "" if name == AUTO else name)
    binary = read_settings(config).engine.binary
    if binary != AUTO:
        click.echo(f"note: engine.binary is {binary}, which is used instead", err=True)
    if as_json:
        print_json({"use": name})
    else:
        click.echo(f"{name} is used from the next start of the service on")
