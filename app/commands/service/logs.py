"""The command `logs`: what the service, or a model's llama-servers, logged, and log."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

import click

from app.commands.service.model_names import complete_model, find_entry
from app.commands.service_client import (
    exit_with_error,
    exit_without_answer,
    open_answer,
    pieces_of,
    read_answer,
    service_json,
    url_option,
)
from app.terminal.events import server_events
from app.terminal.log_lines import log_line

FOLLOWED_LINES = 20  # that are shown before the new ones
SILENT_SECONDS = 60.0  # a comment comes every 15 s
RECONNECT_SECONDS = 0.5


class Filter(NamedTuple):
    """What is printed of the lines, and how."""

    text: str
    as_json: bool

    def print_of(self, lines: Iterable[dict[str, Any]]) -> None:
        for line in lines:
            if self.text.casefold() in line["text"].casefold():
                click.echo(json.dumps(line) if self.as_json else log_line(line))


@click.command("logs")
@click.argument("model", required=False, shell_complete=complete_model)
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines, until Ctrl-C.")
@click.option(
    *("-n", "--lines", "count"),
    type=click.IntRange(0),
    help=f"Look at the last N lines only.  [default: all; {FOLLOWED_LINES} with -f]",
)
@click.option("-g", "--grep", "text", default="", metavar="TEXT", help="Only lines with this text, in any case.")
@url_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def logs_command(model: str | None, follow: bool, count: int | None, text: str, url: str, as_json: bool) -> None:
    """Print the log of the service, or of MODEL's llama-servers, also of those that have ended.

    Requires an admin's key, if the service has keys.

    \b
    llama-smart-proxy logs -f
    llama-smart-proxy logs qwen3-8b --grep error
    """
    if model:
        find_entry(url, model)  # a wrong name is answered with similar ones
    chosen = Filter(text, as_json)
    if not follow:
        chosen.print_of(lines := _kept_lines(url, model, count))
        if model and not lines and count != 0:
            click.echo(f"no log of {model}: it was not loaded since the service started", err=True)
        return
    with contextlib.suppress(KeyboardInterrupt):
        for line in _new_lines(url, model, FOLLOWED_LINES if count is None else count):
            chosen.print_of([line])


def _kept_lines(url: str, model: str | None, count: int | None) -> list[dict[str, Any]]:
    body = service_json(url, "/logs?format=json" + (f"&model={quote(model, safe='')}" if model else ""))
    lines = [line for line in body["lines"] if model or line["server"] is None]
    return lines if count is None else lines[len(lines) - min(count, len(lines)) :]


def _new_lines(url: str, model: str | None, count: int) -> Iterator[dict[str, Any]]:
    """The last `count` lines, then each new one. A reload ends a stream: then it goes on with the next one."""
    path = "/logs/stream" + (f"/{quote(model)}" if model else "")
    while True:
        yield from _stream(url, f"{path}?format=json&lines={count}")
        count = 0
        time.sleep(RECONNECT_SECONDS)


def _stream(url: str, path: str) -> Iterator[dict[str, Any]]:
    with exit_without_answer(), open_answer(url, "GET", path, timeout_seconds=SILENT_SECONDS) as response:
        if response.status_code != 200:
            exit_with_error(read_answer(response, url))
        for event in server_events(pieces_of(response)):
            if event.kind == "message":
                yield json.loads(event.data)
            elif event.kind == "skipped":
                click.echo(f"({json.loads(event.data)['lines']} lines skipped)", err=True)
