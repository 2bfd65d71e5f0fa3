"""The proxy with llama-server's command line: it serves one model with these options.

    python -m bench.server_tests.through BINARY MODELS FOLDER ARGUMENT...

Executes `llama-smart-proxy serve`, which gets the signals and sets the exit status. If the options have no meaning for
the proxy, writes the reason to the file named by SERVER_TESTS_LEFT_OUT and starts nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.settings.denied_options import why_argument_denied
from bench.server_tests.direct import with_local_models
from bench.server_tests.options import ADDRESSES, BY_THE_SCRIPT, LEFT_OUT, NUMBERS, OURS, ROUTER, SETTINGS

# Model names in the tests' requests; llama-server accepts any name.
ALIASES = ("test", "davinci-002", "gpt-3.5-turbo", "gpt-3.5-turbo-instruct", "gpt-4.1", "text-embedding-3-small")


class Unsupported(Exception):
    """The options have no meaning for the proxy; the message says why."""


@dataclass
class ServerOptions:
    """llama-server's options, grouped by what the proxy does with them."""

    ours: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=list)
    by_the_script: list[str] = field(default_factory=list)


def main() -> None:
    binary, models, folder, *arguments = sys.argv[1:]
    try:
        server = parsed(with_local_models(arguments, Path(models)))
    except Unsupported as error:
        Path(os.environ["SERVER_TESTS_LEFT_OUT"]).write_text(str(error))
        raise SystemExit(1) from error
    own = Path(tempfile.mkdtemp(dir=folder))
    file = own / "config.json"
    file.write_text(json.dumps(configuration(server, _engine(own, binary, server.by_the_script)), indent=1))
    for variable, name in (("XDG_STATE_HOME", "state"), ("XDG_CACHE_HOME", "cache"), ("HF_HOME", "huggingface")):
        os.environ[variable] = str(own / name)
    where = ("--host", server.ours["--host"], "--port", server.ours["--port"])
    os.execv(sys.executable, [sys.executable, "-m", "app.commands.cli", "serve", "--config", str(file), *where])


def parsed(arguments: Sequence[str]) -> ServerOptions:
    """Group the options. Raises Unsupported for those that have no meaning for the proxy."""
    server = ServerOptions()
    for option, values in _options(arguments):
        if option in LEFT_OUT:
            raise Unsupported(f"{option}: {LEFT_OUT[option]}")
        if option in SETTINGS:
            server.settings[SETTINGS[option]] = int(values[0]) if option in NUMBERS else values[0]
        elif option in OURS:
            server.ours[option] = values[0] if values else ""
        elif option in BY_THE_SCRIPT:
            server.by_the_script += [option, *values]
        else:
            assert why_argument_denied(option) is None, f"{option} is missing from options.py"
            server.arguments += [option, *values]
    if "--model" not in server.ours:
        raise Unsupported(f"no model: {ROUTER}")
    if "," in server.ours["--host"]:
        raise Unsupported(ADDRESSES)
    return server


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each option with its values; a negative number is a value."""
    taken: list[str] = []
    for each in [*arguments, "--"]:
        is_option = each.startswith("-") and not each[1:2].isdigit()
        if is_option and taken:
            yield taken[0], taken[1:]
            taken = []
        taken.append(each)


def configuration(server: ServerOptions, engine: Path) -> dict[str, Any]:
    name, *others = sorted(server.ours.get("--alias", "tiny").split(","))
    model = {"path": server.ours["--model"], "args": server.arguments, **server.settings, "mmproj": "off"}
    model["aliases"] = others or list(ALIASES)
    # With an explicit number of slots, llama-server gives each slot its own KV cells by default.
    model["kv_unified"] = "--kv-unified" in server.ours or "parallel" not in server.settings
    if mode := os.environ.get("AIP_MODE"):
        model["env"] = {"AIP_MODE": mode, "AIP_HTTP_PORT": "0"}  # its default port is 8080
    made: dict[str, Any] = {
        "server": {"drain_seconds": 1, "stop_seconds": 0.3},
        "engine": {"binary": str(engine)},
        "gpu": {"enabled": False},
        "models": {name: model},
    }
    if key := server.ours.get("--api-key"):
        digits = hashlib.sha256(key.encode()).hexdigest()
        made["keys"] = [{"name": "tests", "sha256": digits, "admin": True, "requests_per_minute": 100_000}]
    return made


def _engine(folder: Path, binary: str, more: Sequence[str]) -> Path:
    """Write a script that runs llama-server, with additional options when it serves a model."""
    script = folder / "llama-server"
    given = " ".join(map(shlex.quote, more))
    script.write_text(
        f'#!/bin/sh\ncase " $* " in *" --model "*) exec {shlex.quote(binary)} "$@" {given};; esac\n'
        f'exec {shlex.quote(binary)} "$@"\n'
    )
    script.chmod(0o755)
    return script


if __name__ == "__main__":
    main()
