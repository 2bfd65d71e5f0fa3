"""The command `reload`: has a running service read its configuration again, and says what came of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click

from app.commands.console import json_option, print_json
from app.commands.options import ANSWER_IS_NO
from app.commands.service_client import call_service, exit_with_error, url_option
from app.terminal.text import printable

_LINES = {
    "added": "added",
    "updated": "updated, still loaded",
    "restarted": "changed: ends after its requests, starts anew with the next",
    "removed": "removed: ends after its requests",
}


@click.command()
@url_option
@json_option
def reload(url: str, as_json: bool) -> None:
    """Apply a changed configuration to the running service.

    The service reads its file and its model folders again. Unchanged models keep running; changed ones finish their
    requests first. An invalid file changes nothing. If the service has keys, LLAMA_SMART_PROXY_API_KEY must be an
    admin's. --json prints the body of POST /admin/reload. Exit status: 0 applied, 1 not applied or no answer, 2 wrong
    use.
    """
    answer = call_service(url, "POST", "/admin/reload", {})
    if as_json:
        print_json(answer.body)
        sys.exit(0 if answer.is_yes else ANSWER_IS_NO)
    if answer.is_yes:
        click.echo("\n".join(_report(answer.body)))
        return
    exit_with_error(answer)


def _report(body: dict[str, Any]) -> Iterator[str]:
    models = body.get("models", {})
    yield "The configuration was reloaded."
    yield f"Changed keys: {', '.join(body.get('changed', ())) or 'none'}"
    for change, meaning in _LINES.items():
        yield from (f"  {printable(name)}: {meaning}" for name in models.get(change, ()))
    if waiting := body.get("needs_restart"):
        yield f"Restart the service to apply: {', '.join(waiting)}"
    yield from (f"warning: {printable(line)}" for line in body.get("warnings", ()))
