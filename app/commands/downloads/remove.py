"""The command `rm`: delete a model's files from the Hugging Face cache."""

from __future__ import annotations

import sys

import click

from app.commands.console import json_option, print_json
from app.commands.downloads.deleter import deleter
from app.commands.options import exit_no, exit_wrong_use
from app.commands.service.model_names import model_argument
from app.commands.service_client import url_option
from app.terminal.text import printable, size_cell
from app.use_cases.downloads.repository_names import why_not_deleted


@click.command("rm")
@model_argument
@click.option("--yes", "-y", "is_sure", is_flag=True, help="Do not ask.")
@url_option
@json_option
def remove_command(model: str, is_sure: bool, url: str, as_json: bool) -> None:
    """Delete the files of MODEL from the Hugging Face cache.

    Files that other models use too stay. A loaded model is unloaded, once its running requests are finished. Only the
    cache is changed: a model in a folder of yours is for you to delete. What an unfinished download of MODEL left is
    deleted, too. The service does it, if one answers, which requires an admin's key; else this command does, in the
    cache of the user who runs it.

    \b
    --json prints {"deleted": "...", "freed_bytes": 0}
    """
    by = deleter(url)
    name, size_bytes = by.find(model)
    if problem := why_not_deleted(model, name):
        exit_no(printable(problem))
    if not is_sure:
        _ask(f"delete {_what(name, size_bytes)} from {printable(by.place)}?")
    freed_bytes = by.delete(name)
    if as_json:
        print_json({"deleted": name, "freed_bytes": freed_bytes})
    else:
        click.echo(f"deleted {printable(name)}: {size_cell(freed_bytes)} are free again")


def _what(name: str, size_bytes: int | None) -> str:
    name = printable(name)
    return f"what unfinished downloads of {name} left" if size_bytes is None else f"{name} ({size_cell(size_bytes)})"


def _ask(question: str) -> None:
    """Ends the command if the answer is no."""
    if not sys.stdin.isatty():
        exit_wrong_use("rm asks before it deletes, and this is no terminal: add --yes")
    if not click.confirm(question, err=True):
        exit_no("nothing was deleted")
