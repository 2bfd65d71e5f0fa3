"""The command `engine use`."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem

from app.commands.check_config import config_option
from app.commands.console import json_option, print_json
from app.commands.engine.engine_names import AUTO, complete_engine, installed_or_exit
from app.commands.options import read_settings


def _complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    auto = [CompletionItem(AUTO)] if AUTO.startswith(incomplete) else []
    return [*auto, *complete_engine(context, parameter, incomplete)]


@click.command("use")
@click.argument("name", shell_complete=_complete)
@config_option
@json_option
def use_command(name: str, config: Path | None, as_json: bool) -> None:
    """Choose the engine of the service.

    NAME is an installed engine, or `auto`: the service's own choice.

    It counts where `engine.binary` in the configuration is `auto`, from the next start of the service on.

    \b
    --json prints {"use": "cuda-11549"}
    """
    from workers.engine_builds.engine_store import choose_engine
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
