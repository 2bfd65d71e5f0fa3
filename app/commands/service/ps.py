"""The command `ps`: the servers that run, and what waits for one."""

from __future__ import annotations

import click

from app.commands.console import json_option, print_json, print_lines, print_table
from app.commands.service_client import service_json, url_option
from app.terminal.servers import EXPENDABLE_ALONE, server_table, service_notes


@click.command()
@url_option
@json_option
def ps(url: str, as_json: bool) -> None:
    """List the models that are loaded or loading, and what waits.

    \b
    CONTEXT   tokens in use, of all slots together
    MEMORY    on all devices, as measured; ~ is an estimate
    TOKENS/S  generated, of all requests together

    A narrow terminal gets fewer columns, a pipe all of them.
    --json prints the body of GET /status.
    """
    status = service_json(url, "/status")
    if as_json:
        print_json(status)
        return
    if status["servers"]:
        print_table(server_table(status), EXPENDABLE_ALONE)
    else:
        click.echo(
            "No model is loaded. `llama-smart-proxy models` lists them; `llama-smart-proxy load MODEL` loads one."
        )
    print_lines(service_notes(status))
