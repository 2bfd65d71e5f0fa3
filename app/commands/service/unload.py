"""The command `unload`."""

from __future__ import annotations

from functools import partial

import click

from app.commands.console import json_option, print_json
from app.commands.options import exit_wrong_use
from app.commands.service.model_names import complete_loaded_model, exit_without_model, model_path, served_names
from app.commands.service.status_line import StatusLine
from app.commands.service_client import (
    ask_service,
    call_service,
    exit_with_error,
    exit_without_answer,
    service_json,
    url_option,
)
from app.terminal.loading import unloading_text
from app.terminal.text import printable


@click.command("unload")
@click.argument("model", required=False, shell_complete=complete_loaded_model)
@click.option("--all", "is_all", is_flag=True, help="Unload every model.")
@click.option("--force", is_flag=True, help="End running requests at once; without it they are finished first.")
@url_option
@json_option
def unload_command(model: str | None, is_all: bool, force: bool, url: str, as_json: bool) -> None:
    """Unload MODEL, or every model.

    Running requests are finished first. Returns once the processes have ended. A model that is not loaded is left as
    it is, with exit status 0. Requires an admin's key, if the service has keys.

    \b
    --json prints {"unloaded": ["..."]}
    """
    if is_all == bool(model):
        exit_wrong_use("unload what? Name a model, or use --all")
    loaded = list(dict.fromkeys(server["model"] for server in service_json(url, "/status")["servers"]))
    for name in [model] if model else loaded:
        _unload(url, name, force)
    ended = [name for name in loaded if is_all or name in _names_of(url, str(model))]
    if as_json:
        print_json({"unloaded": ended})
        return
    for name in ended:
        click.echo(f"unloaded {printable(name)}")
    if not ended:
        click.echo("no model is loaded" if is_all else f"{printable(str(model))} is not loaded")


def _unload(url: str, name: str, force: bool) -> None:
    body = {"model": name, "force": True} if force else {"model": name}
    with exit_without_answer(), StatusLine(url, partial(unloading_text, model=name)):
        answer = ask_service(url, "POST", "/models/unload", body)
    if answer.status == 404:
        exit_without_model(answer)
    if not answer.is_yes:
        exit_with_error(answer)


def _names_of(url: str, name: str) -> frozenset[str]:
    """It may be an alias; or no name of the catalogue any more, but still that of a server."""
    answer = call_service(url, "GET", model_path(name))
    return served_names(answer.body) if answer.is_yes else frozenset([name])
