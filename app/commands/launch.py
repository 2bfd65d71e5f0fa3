"""The command `launch`: starts a coding agent that uses this service."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import click

from app.commands.client_setup import CLIENTS, KEY, Client, Setup, Target, context_warning
from app.commands.options import exit_no
from app.commands.service.model_names import model_path
from app.commands.service_client import KEY_VARIABLE, service_json, url_option


@click.command()
@click.argument("name", metavar="CLIENT", type=click.Choice(list(CLIENTS)))
@click.option("--model", help="The model to use.  [default: the only one, the default, or the only one that is loaded]")
@click.option("--print", "only_print", is_flag=True, help="Print the shell commands, and start nothing.")
@url_option
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def launch(name: str, model: str | None, only_print: bool, url: str, arguments: tuple[str, ...]) -> None:
    """Start CLIENT with this service as its model.

    CLIENT is claude, codex, opencode, qwen, aider or goose. Address, key, model and context are set in its environment
    and its arguments; none of its files is written. The key is that in LLAMA_SMART_PROXY_API_KEY. What follows `--`
    goes to the client:

        llama-smart-proxy launch claude --model qwen3-coder-30b -- --continue
    """
    client = CLIENTS[name]
    entry, why = _requested_model(url, model) if model else _obvious_model(url)
    has_key = bool(os.environ.get(KEY_VARIABLE))
    target = Target(url, entry["id"], entry.get("context_length"), has_key, _ctx_size_key(entry))
    setup = client.setup(target)
    argv = (client.program, *setup.arguments, *(arguments or client.default_arguments))
    for line in _report(client, target, why, setup):
        click.echo(line, err=True)
    if only_print:
        click.echo("\n".join(shell_lines(setup.environment, argv)))
        return
    click.echo("\n".join(_settings(setup)), err=True)
    _start(client, argv, setup.environment)


def _requested_model(url: str, name: str) -> tuple[dict[str, Any], str]:
    entry = service_json(url, model_path(name))
    if not _generates(entry):
        why = entry["status"].get("message") or "its `capabilities` in GET /v1/models lack completion"
        exit_no(f"{name} generates no text: {why}")
    return entry, "--model"


def _obvious_model(url: str) -> tuple[dict[str, Any], str]:
    body = service_json(url, "/v1/models")
    listed, default_name = body.get("data", ()), body.get("default_model")
    models = [entry for entry in listed if _can_chat(entry)]
    default = [entry for entry in listed if default_name in (entry["id"], *entry.get("aliases", ()))]
    here = [entry for entry in models if "peer" not in entry]
    loaded = [entry for entry in here if entry.get("status", {}).get("value") == "loaded"]
    for found, why in ((models, "the only one"), (default, "the default"), (loaded, "the only one that is loaded")):
        if len(found) == 1:
            return found[0], why
    names = ", ".join(entry["id"] for entry in models)
    exit_no(f"choose a model with --model: {names}" if models else f"{url} has no model that can chat")


def _can_chat(entry: Mapping[str, Any]) -> bool:
    """Variants and virtual names are left out: they are further names of models."""
    return not {"parent", "any_of"} & entry.keys() and _generates(entry)


def _generates(entry: Mapping[str, Any]) -> bool:
    """True as well where the header has not been read."""
    return "completion" in entry.get("capabilities", ("completion",))


def _ctx_size_key(entry: Mapping[str, Any]) -> str:
    """A variant has that of its model, and a virtual name none."""
    if members := entry.get("any_of"):
        return f"ctx_size of {', '.join(members)}"
    return f"models.{entry.get('parent', entry['id'])}.ctx_size"


def _report(client: Client, target: Target, why: str, setup: Setup) -> Iterator[str]:
    context = f"{target.context_tokens:,} tokens" if target.context_tokens else "unknown"
    yield f"{client.title} with {target.model} ({why}) at {target.url}, context: {context}"
    yield from (f"warning: {line}" for line in (context_warning(client, target), setup.note) if line)


def _settings(setup: Setup) -> Iterator[str]:
    yield from (f"  {name}={value}" for name, value in setup.environment.items())
    if setup.arguments:
        yield f"  arguments: {shlex.join(setup.arguments)}"


def shell_lines(environment: Mapping[str, str], argv: Sequence[str]) -> list[str]:
    """The same as shell commands. The key is a reference to its variable."""
    values = {name: f'"{KEY}"' if value == KEY else shlex.quote(value) for name, value in environment.items()}
    return [*(f"export {name}={value}" for name, value in values.items()), shlex.join(argv)]


def _start(client: Client, argv: tuple[str, ...], environment: Mapping[str, str]) -> NoReturn:
    if shutil.which(client.program) is None:
        exit_no(f"{client.title} is not installed: {client.install}")
    key = os.environ.get(KEY_VARIABLE, "")
    own = {name: key if value == KEY else value for name, value in environment.items()}
    sys.stdout.flush()
    os.execvpe(client.program, argv, os.environ | own)
