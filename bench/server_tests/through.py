"""The proxy in llama-server's place: takes its command line, and serves one model that is started with these options.

    python -m bench.server_tests.through BINARY MODELS FOLDER ARGUMENT...

It becomes `llama-smart-proxy serve`, so signals and exit status are that one's. What cannot be asked of a proxy is
written into the file of SERVER_TESTS_LEFT_OUT, and nothing is started.
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

from app.settings.denied_options import refused_argument
from bench.server_tests.direct import here
from bench.server_tests.options import ADDRESSES, BY_THE_SCRIPT, LEFT_OUT, NUMBERS, OURS, ROUTER, SETTINGS

# What the tests call their model in requests; llama-server takes any name.
ALIASES = ("test", "davinci-002", "gpt-3.5-turbo", "gpt-3.5-turbo-instruct", "gpt-4.1", "text-embedding-3-small")


class CannotBeAsked(Exception):
    """The message says why."""


@dataclass
class Start:
    """llama-server's options, told apart by what they are to the proxy."""

    ours: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=list)
    by_the_script: list[str] = field(default_factory=list)


def main() -> None:
    binary, models, folder, *arguments = sys.argv[1:]
    try:
        start = told_apart(here(arguments, Path(models)))
    except CannotBeAsked as error:
        Path(os.environ["SERVER_TESTS_LEFT_OUT"]).write_text(str(error))
        raise SystemExit(1) from error
    own = Path(tempfile.mkdtemp(dir=folder))
    file = own / "config.json"
    file.write_text(json.dumps(configuration(start, _engine(own, binary, start.by_the_script)), indent=1))
    for variable, name in (("XDG_STATE_HOME", "state"), ("XDG_CACHE_HOME", "cache"), ("HF_HOME", "huggingface")):
        os.environ[variable] = str(own / name)
    where = ("--host", start.ours["--host"], "--port", start.ours["--port"])
    os.execv(sys.executable, [sys.executable, "-m", "app.commands.cli", "serve", "--config", str(file), *where])


def told_apart(arguments: Sequence[str]) -> Start:
    """Raises CannotBeAsked for what has no meaning through the proxy."""
    start = Start()
    for option, values in _options(arguments):
        if option in LEFT_OUT:
            raise CannotBeAsked(f"{option}: {LEFT_OUT[option]}")
        if option in SETTINGS:
            start.settings[SETTINGS[option]] = int(values[0]) if option in NUMBERS else values[0]
        elif option in OURS:
            start.ours[option] = values[0] if values else ""
        elif option in BY_THE_SCRIPT:
            start.by_the_script += [option, *values]
        else:
            assert refused_argument(option) is None, f"{option} is in no table of options.py"
            start.arguments += [option, *values]
    if "--model" not in start.ours:
        raise CannotBeAsked(f"no model: {ROUTER}")
    if "," in start.ours["--host"]:
        raise CannotBeAsked(ADDRESSES)
    return start


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each option with its values; a number may be negative."""
    taken: list[str] = []
    for each in [*arguments, "--"]:
        is_option = each.startswith("-") and not each[1:2].isdigit()
        if is_option and taken:
            yield taken[0], taken[1:]
            taken = []
        taken.append(each)


def configuration(start: Start, engine: Path) -> dict[str, Any]:
    name, *others = sorted(start.ours.get("--alias", "tiny").split(","))
    model = {"path": start.ours["--model"], "args": start.arguments, **start.settings, "mmproj": "off"}
    model["aliases"] = others or list(ALIASES)
    # Where slots are counted, llama-server gives each its own cells unless it is told otherwise.
    model["kv_unified"] = "--kv-unified" in start.ours or "parallel" not in start.settings
    if mode := os.environ.get("AIP_MODE"):
        model["env"] = {"AIP_MODE": mode, "AIP_HTTP_PORT": "0"}  # it would be on port 8080 otherwise
    made: dict[str, Any] = {
        "server": {"drain_seconds": 1, "stop_seconds": 0.3},
        "engine": {"binary": str(engine)},
        "gpu": {"enabled": False},
        "models": {name: model},
    }
    if key := start.ours.get("--api-key"):
        digits = hashlib.sha256(key.encode()).hexdigest()
        made["keys"] = [{"name": "tests", "sha256": digits, "admin": True, "requests_per_minute": 100_000}]
    return made


def _engine(folder: Path, binary: str, more: Sequence[str]) -> Path:
    """llama-server as a script, that gives it more options wherever it is to serve a model."""
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
