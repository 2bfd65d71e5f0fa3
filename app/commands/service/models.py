"""The commands `models` and `show`: what the service can serve, and what each would need now."""

from __future__ import annotations

import shlex

import click

from app.commands.console import json_option, print_json, print_lines, print_table
from app.commands.downloads.updates import show_updates
from app.commands.service.model_names import find_entry, model_argument
from app.commands.service_client import service_json, url_option
from app.terminal.models import EXPENDABLE, model_lines, model_table, now_text
from app.terminal.text import printable


@click.command("models")
@click.option(
    "--updates",
    "shows_updates",
    is_flag=True,
    help="Ask Hugging Face instead which models of this user's cache have changed there.",
)
@url_option
@json_option
def models_command(shows_updates: bool, url: str, as_json: bool) -> None:
    """List the models, and where each is or would go now.

    --json prints the body of GET /plan; with --updates {"cache", "updates": [{"model", "freshness": "current", ...}]}.
    """
    if shows_updates:
        show_updates(as_json)
        return
    plan = service_json(url, "/plan")
    if as_json:
        print_json(plan)
        return
    if not plan["models"]:
        click.echo(
            "No models. Start the service with --models-dir DIR, or see catalog.models_dirs in its configuration."
        )
        return
    print_table(model_table(plan["models"]), EXPENDABLE)


@click.command("show")
@model_argument
@url_option
@json_option
def show_command(model: str, url: str, as_json: bool) -> None:
    """Show what is known about MODEL.

    --json prints the body of GET /v1/models/MODEL.
    """
    entry = find_entry(url, model)
    if as_json:
        print_json(entry)
        return
    plans = {each["id"]: each for each in service_json(url, "/plan")["models"]}
    plan = plans.get(entry["id"])
    print_lines(model_lines(entry, now_text(plan) if plan else ""))
    can_load = not plan or (not plan["problem"] and plan["outcome"] != "refuse")
    if can_load and "chat" in entry.get("capabilities", ()):
        click.echo(f"chat with it:  llama-smart-proxy run {shlex.quote(printable(model))}")
