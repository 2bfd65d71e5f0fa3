"""Measures starts with the tool: one, or many at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from threading import Lock

from bench.gpu.model_file import is_written, write_sparse_model
from bench.gpu.shapes import Shape
from bench.truth.table import Figures, Start, figures_of

PROCESSES = 2
_SECONDS = 300.0
_CHILD = Path(__file__).with_name("child.py")
_NAMES_FILES = ("-md", "--model-draft", "--lora", "--mmproj")
_LOUD = ("GGML_ASSERT", "fatal error", "what():")  # how llama.cpp ends when it aborts


@dataclass(frozen=True, slots=True)
class Bench:
    """The tool, and the folder where models are written as they are needed."""

    tool: Path
    models: Path
    _writing: Lock = field(default_factory=Lock)
    _written: set[Path] = field(default_factory=set)

    def figures(self, start: Start) -> Figures:
        model = self._file(start.shape, start.quant)
        args = start.args.split()
        for option, value in pairwise(args):
            if option in _NAMES_FILES:
                for name in value.split(","):
                    self._file(*name.removesuffix(".gguf").rsplit(".", 1))
        return self._run(model, start.devices, args)

    def all_figures(self, starts: Iterable[Start], processes: int = PROCESSES) -> Iterator[tuple[Start, Figures]]:
        """In their order."""
        ordered = list(starts)
        with ThreadPoolExecutor(processes) as pool:
            yield from zip(ordered, pool.map(self.figures, ordered), strict=True)

    def _file(self, name: str, quant: str) -> Path:
        shape = Shape(name, quant)
        path = self.models / shape.file_name
        with self._writing:
            if path not in self._written and not is_written(shape, path):
                write_sparse_model(shape, path)
            self._written.add(path)
        return path

    def _run(self, model: Path, devices: str, args: list[str]) -> Figures:
        command = [sys.executable, "-I", "-S", str(_CHILD), str(self.tool), "-m", str(model), *args]
        done = subprocess.run(
            command,
            env={**os.environ, "STAND_IN_CUDA": devices},
            cwd=self.models,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
        answer = next((line for line in done.stdout.splitlines() if line.startswith("{")), "")
        return figures_of(json.loads(answer)) if answer else Figures(error=_why(done))


def _why(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    loud = [line for line in lines if any(word in line for word in _LOUD)]
    return (loud or lines or [f"exit status {done.returncode}"])[-1 if not loud else 0][-160:]
