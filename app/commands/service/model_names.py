"""The names of models as arguments: completed by the shell, and looked up in the service."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote

import click

from app.commands.options import exit_no
from app.commands.service_client import (
    URL_VARIABLE,
    NoServiceAnswer,
    ServiceAnswer,
    ask_service,
    call_service,
    configured_url,
    exit_with_error,
)

if TYPE_CHECKING:
    from click import Context, Parameter

COMPLETION_SECONDS = 1.0
LIST_ROUTE, LIST_COMMAND = "GET /v1/models lists the names", "`llama-smart-proxy models` lists them"


def model_path(name: str) -> str:
    return f"/v1/models/{quote(name)}"


def find_entry(url: str, name: str) -> dict[str, Any]:
    """The model's entry of GET /v1/models/ID. The command ends if there is none."""
    answer = call_service(url, "GET", model_path(name))
    if answer.status == 404:
        exit_without_model(answer, _how_to_pull(name))
    if not answer.is_yes:
        exit_with_error(answer)
    return answer.body


def served_names(entry: Mapping[str, Any]) -> frozenset[str]:
    """The names that its servers may have: a variant's are its model's, a virtual name's those it stands for."""
    return frozenset([entry["id"], entry.get("parent", entry["id"]), *entry.get("any_of", ())])


def exit_without_model(answer: ServiceAnswer, advice: str = "") -> NoReturn:
    """`answer`: a 404, which names similar models."""
    exit_no(answer.error.replace(LIST_ROUTE, LIST_COMMAND) + advice)


def _how_to_pull(name: str) -> str:
    """ "" if it is no name of a repository."""
    from app.use_cases.downloads.repository_names import InvalidName, parse_name

    try:
        return f"\nfetch it:  llama-smart-proxy pull {shlex.quote(str(parse_name(name)))}"
    except InvalidName:
        return ""


def complete_model(context: Context, parameter: Parameter, incomplete: str) -> list[str]:
    return _names(context, incomplete, lambda entry: True)


def complete_loaded_model(context: Context, parameter: Parameter, incomplete: str) -> list[str]:
    return _names(context, incomplete, lambda entry: entry["status"]["value"] != "unloaded" and "peer" not in entry)


def _names(context: Context, incomplete: str, is_meant: Callable[[Mapping[str, Any]], bool]) -> list[str]:
    """Nothing if the service does not answer at once: a shell shows no errors."""
    url = context.params.get("url") or os.environ.get(URL_VARIABLE) or configured_url()
    try:
        answer = ask_service(url, "GET", "/v1/models", timeout_seconds=COMPLETION_SECONDS)
        names = [entry["id"] for entry in answer.body["data"] if is_meant(entry)]
    except (NoServiceAnswer, KeyError, TypeError):
        return []
    return [name for name in names if name.isprintable() and name.lower().startswith(incomplete.lower())]


model_argument = click.argument("model", shell_complete=complete_model)
