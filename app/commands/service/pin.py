"""The commands `pin` and `unpin`."""

from __future__ import annotations

import shlex

import click

from app.commands.console import json_option, print_json
from app.commands.service.model_names import exit_without_model, find_entry, model_argument
from app.commands.service_client import call_service, exit_with_error, url_option
from app.terminal.text import printable


@click.command("pin")
@model_argument
@url_option
@json_option
def pin_command(model: str, url: str, as_json: bool) -> None:
    """Keep MODEL loaded until the service restarts.

    A pinned model is not evicted, and not unloaded when idle. It is not loaded by this: `load` does that. What lasts
    is `pin: true` of the model in the configuration. Requires an admin's key, if the service has keys.

    \b
    --json prints {"model": "...", "pinned": true}
    """
    name, is_loaded = _order(url, "pin", model)
    if as_json:
        print_json({"model": name, "pinned": True})
        return
    click.echo(f"pinned {printable(name)} until the service restarts")
    if not is_loaded:
        click.echo(f"it is not loaded; load it:  llama-smart-proxy load {shlex.quote(printable(model))}")


@click.command("unpin")
@model_argument
@url_option
@json_option
def unpin_command(model: str, url: str, as_json: bool) -> None:
    """Let MODEL be evicted, and unloaded when idle.

    Also a model that the configuration pins, until the service restarts. It stays loaded until its memory is needed,
    or until it was idle for its `ttl_seconds`. Requires an admin's key, if the service has keys.

    \b
    --json prints {"model": "...", "pinned": false}
    """
    name, _ = _order(url, "unpin", model)
    if as_json:
        print_json({"model": name, "pinned": False})
    else:
        click.echo(f"unpinned {printable(name)}")


def _order(url: str, verb: str, model: str) -> tuple[str, bool]:
    """The model's name in the catalogue, and whether it is loaded or loading."""
    entry = find_entry(url, model)
    answer = call_service(url, "POST", f"/models/{verb}", {"model": model})
    if answer.status == 404:
        exit_without_model(answer)
    if not answer.is_yes:
        exit_with_error(answer)
    return entry["id"], entry["status"]["value"] in ("loading", "loaded")
