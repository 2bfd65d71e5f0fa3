"""The command `decisions`: where models were placed, and why."""

from __future__ import annotations

from datetime import datetime
from urllib.parse import quote

import click

from app.commands.console import json_option, print_json, print_table
from app.commands.service.model_names import complete_model, find_entry
from app.commands.service_client import service_json, url_option
from app.terminal.decisions import decision_table

SHOWN = 20


@click.command("decisions")
@click.argument("model", required=False, shell_complete=complete_model)
@click.option("-n", "--number", type=click.IntRange(1), default=SHOWN, show_default=True, help="How many to show.")
@url_option
@json_option
def decisions_command(model: str | None, number: int, url: str, as_json: bool) -> None:
    """List the last placement decisions, or those about MODEL, the newest last.

    Requires an admin's key, if the service has keys. --json prints the body of GET /decisions: up to 200 decisions,
    the newest first, each with the steps that were considered.
    """
    query = f"?model={quote(find_entry(url, model)['id'], safe='')}" if model else ""
    body = service_json(url, f"/decisions{query}")
    if as_json:
        print_json(body)
        return
    found = body["decisions"]
    if not found:
        click.echo(f"no decisions about {model} yet" if model else "no decisions yet: no model was loaded")
        return
    print_table(decision_table(found[:number], datetime.now().astimezone()))
    if len(found) > number:
        click.echo(f"{len(found) - number} earlier: -n {len(found)}", err=True)
