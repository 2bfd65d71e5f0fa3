"""The command `load`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import click

from app.commands.console import json_option, print_json
from app.commands.options import exit_no
from app.commands.service.model_names import find_entry, model_argument, model_path, served_names
from app.commands.service.status_line import StatusLine
from app.commands.service_client import (
    ServiceAnswer,
    ask_service,
    exit_with_error,
    exit_without_answer,
    service_json,
    url_option,
)
from app.terminal.loading import loaded_text, loading_text

POLL_SECONDS = 0.1


@click.command("load")
@model_argument
@url_option
@json_option
def load_command(model: str, url: str, as_json: bool) -> None:
    """Load MODEL, and wait until it is ready.

    Idle models are evicted if it needs their memory. Requires an admin's key, if the service has keys. Exit status: 0
    it is ready, 1 it is not.

    \b
    --json prints {"model": "...", "device": "cuda:0", "seconds": 2.7}
    """
    started_at = time.monotonic()
    entry = find_entry(url, model)
    was_loaded = entry["status"]["value"] == "loaded"
    names = served_names(entry)
    with exit_without_answer(), StatusLine(url, partial(loading_text, models=names)):
        answer = ask_service(url, "POST", "/models/load", {"model": model})
        if answer.is_yes:
            answer = _loaded_entry(url, model)
    seconds = time.monotonic() - started_at
    if not answer.is_yes:
        exit_with_error(answer)
    if why := _why_not_loaded(answer.body):
        exit_no(f"{model} {why}")
    server: dict[str, Any] = next((s for s in service_json(url, "/status")["servers"] if s["model"] in names), {})
    if as_json:
        print_json({"model": entry["id"], "device": server.get("device"), "seconds": round(seconds, 3)})
    else:
        click.echo(loaded_text(entry["id"], server, None if was_loaded else seconds))


def _loaded_entry(url: str, model: str) -> ServiceAnswer:
    """The answer about the model once it no longer loads. Raises NoServiceAnswer."""
    answer = ask_service(url, "GET", model_path(model))
    while answer.is_yes and answer.body["status"]["value"] == "loading":
        time.sleep(POLL_SECONDS)
        answer = ask_service(url, "GET", model_path(model))
    return answer


def _why_not_loaded(entry: Mapping[str, Any]) -> str:
    """ "" if it is."""
    status = entry["status"]
    if status["value"] == "loaded":
        return ""
    return f"did not load: {status['message']}" if status.get("message") else "was unloaded before it was ready"
