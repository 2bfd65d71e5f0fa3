"""Asks an engine what it would need for a model: it starts, reports its needs before it loads, and is killed then."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import IO

from app.entities.launch import EngineFacts
from app.entities.memory import Estimate
from app.entities.model import Model
from app.use_cases.launch.command_line import ANY_PORT, launch_plan, reports_memory_need
from workers.engine.probe_process import engine_environment
from workers.measurement.memory_report import EngineReport
from workers.server.child_process import parent_death_argv

TIMEOUT_SECONDS = 30.0  # it takes 0.2 s, and seconds for a long vocabulary on a busy machine
_TAIL_LINES = 3


class NotProjected(Exception):
    """The engine did not report its needs; the message says why."""


def project_on_cpu(model: Model, engine: EngineFacts, env: Mapping[str, str]) -> Estimate:
    """What it would need with the model's settings on the CPU alone. Raises NotProjected.

    It loads no weights. `env`: additions to the engine's environment.
    """
    options = replace(model.launch.options, devices=0, n_gpu_layers=0, n_cpu_moe=0, tensor_split=())
    model = replace(model, launch=replace(model.launch, options=options, gpus=()))
    if not reports_memory_need(model.launch, engine):
        raise NotProjected("this llama-server does not report its needs before it loads")
    plan = launch_plan(model, engine, engine_environment(env), api_key="unused", port=ANY_PORT)
    try:
        process = subprocess.Popen(
            [*parent_death_argv(), *plan.argv],
            stdin=subprocess.PIPE,  # its end would be the order to exit
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=plan.env,
            start_new_session=True,
        )
    except OSError as error:
        raise NotProjected(f"it cannot be run: {error.strerror}") from error
    with process:
        try:
            assert process.stdout is not None
            return _read(process.stdout, "--log-jsonl" in engine.flags)
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # the group exists: its leader is not reaped yet


def _read(stream: IO[bytes], in_json: bool) -> Estimate:
    report, tail = EngineReport(in_json), deque[str](maxlen=_TAIL_LINES)
    for line in _lines(stream):
        tail.append(line)
        if report.read(line) and report.projected:
            return report.projected
    raise NotProjected(" | ".join(each.strip() for each in tail if each.strip()) or "it said nothing in time")


def _lines(stream: IO[bytes]) -> Iterator[str]:
    """Lines until the end or the time limit."""
    deadline, rest = time.monotonic() + TIMEOUT_SECONDS, b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            piece = os.read(stream.fileno(), 1 << 16)
            if not piece:
                break
            *lines, rest = (rest + piece).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)
    yield rest.decode(errors="replace")
