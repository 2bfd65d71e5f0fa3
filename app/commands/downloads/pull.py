"""The command `pull`: download a model by name, or say which of its quants fits."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

import click

from app.commands.console import json_option, print_json, print_table
from app.commands.downloads.progress import ProgressDisplay
from app.commands.downloads.puller import Puller, puller
from app.commands.options import ANSWER_IS_NO, INTERRUPTED
from app.commands.service_client import url_option
from app.terminal.downloads import EXPENDABLE, end_text, next_step, quant_table, stopped_text
from app.terminal.text import printable, printable_lines


@click.command("pull")
@click.argument("name")
@click.option("--plan", "is_plan", is_flag=True, help="Only show what each quant needs and where it would go.")
@click.option("--local", "is_local", is_flag=True, help="Do not ask the service: download into this user's cache.")
@url_option
@json_option
def pull_command(name: str, is_plan: bool, is_local: bool, url: str, as_json: bool) -> None:
    """Download the model NAME from Hugging Face, with its parts, projector and draft model.

    NAME is user/repo, user/repo:QUANT or user/repo:file.gguf; without a QUANT it is Q4_K_M, if there is one. The
    service downloads it, if one answers and the key is an admin's; else this command does, and says into which folder.
    A model that can never fit this machine is refused before its weights are downloaded.

    Ctrl-C stops it and keeps the partial download, which the same command resumes. Exit status: 0 if the model is
    downloaded, else 1.

    \b
    llama-smart-proxy pull ggml-org/gemma-3-270m-it-GGUF
    llama-smart-proxy pull unsloth/Qwen3-14B-GGUF --plan

    \b
    --json prints {"model", "state", "total_bytes", "done_bytes", "problem", ...}, as GET /status has it;
    with --plan the answer of POST /models/pull
    """
    by = puller(url, is_local)
    if is_plan:
        _show_plan(by.plan(name), as_json)
        return
    began_at = time.monotonic()
    download = _pull(by, name)
    is_here = download["state"] == "complete"
    if as_json:
        print_json(download)
    if not (as_json and is_here):  # the reason of a failure is for a person, too
        click.echo(printable_lines(end_text(download, time.monotonic() - began_at)), err=not is_here)
    if not is_here:
        sys.exit(ANSWER_IS_NO)


def _show_plan(plan: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(plan)
        return
    print_table(quant_table(plan["quants"]), EXPENDABLE)
    click.echo(next_step(plan["quants"]))


def _pull(by: Puller, name: str) -> Mapping[str, Any]:
    """The download once it has ended. Ctrl-C ends the command."""
    states = by.pull(name)  # first: a name that is none ends the command
    if by.note:
        click.echo(printable(by.note), err=True)
    download: Mapping[str, Any] = {}
    with ProgressDisplay() as display:
        try:
            for download in states:
                display.show(download)
            return download
        except KeyboardInterrupt:
            pass
    if download:
        click.echo(stopped_text(download, by.stop(download)), err=True)
    sys.exit(INTERRUPTED)
