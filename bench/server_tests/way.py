"""Runs llama.cpp's tests one of two ways, directly or through the proxy."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from workers.server.child_process import free_port

ROOT = Path(__file__).parents[2]
FILE_SECONDS = 1500
RAN = (0, 1, 5)  # pytest exit statuses: all passed, some failed, none collected
LAST_CHARACTERS = 4000

Outcomes = dict[str, dict[str, str]]


class Way:
    """ "direct" or "through", the names of the modules that replace llama-server."""

    def __init__(self, name: str, binary: str, folder: Path) -> None:
        """`folder` contains the models and all output."""
        self.name = name
        self._folder = folder
        self._script = folder / name
        words = [sys.executable, "-m", f"bench.server_tests.{name}", binary, str(folder / "models"), str(folder)]
        self._script.write_text(
            f'#!/bin/sh\nexport PYTHONPATH={shlex.quote(str(ROOT))}\nexec {shlex.join(words)} "$@"\n'
        )
        self._script.chmod(0o755)

    def outcomes(self, tests: Path, file: str) -> Outcomes:
        """Outcomes of the tests of unit/`file`, by test name; read from the folder if they were run before."""
        kept = self._folder / f"{file}.{self.name}.jsonl"
        if not kept.exists():
            self._run(tests, file, kept)
        return {made["test"]: made for made in map(json.loads, kept.read_text().splitlines())}

    def _run(self, tests: Path, file: str, kept: Path) -> None:
        print(f"{file}: {self.name}", file=sys.stderr, flush=True)
        partial, log = kept.with_suffix(".partial"), kept.with_suffix(".log")
        partial.write_text("")
        options = ("-q", "-p", "bench.server_tests.plugin", "-p", "no:cacheprovider", "-m", "not slow")
        with open(log, "wb") as output:
            done = subprocess.run(
                [sys.executable, "-m", "pytest", *options, f"unit/{file}"],
                cwd=tests,
                env=self._environment(partial, kept.with_suffix(".left_out")),
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=FILE_SECONDS,
                check=False,
            )
        if done.returncode not in RAN:
            print(log.read_text(errors="replace")[-LAST_CHARACTERS:], file=sys.stderr)
        partial.rename(kept)

    def _environment(self, outcomes: Path, left_out: Path) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LLAMA_SERVER_BIN_PATH": str(self._script),
            "PORT": str(free_port()),
            "SERVER_TESTS_OUTCOMES": str(outcomes),
            "SERVER_TESTS_MODELS": str(self._folder / "models"),
            **({"SERVER_TESTS_LEFT_OUT": str(left_out)} if self.name == "through" else {}),
        }
