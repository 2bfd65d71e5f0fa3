"""Tries a new engine: a few tokens on the CPU, then on each device that it lists."""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from app.use_cases.engines.trials import Trial
from workers.engine.binary import find_engine
from workers.engine.gpu_probe import list_devices
from workers.engine.probe_process import EngineNotFound, engine_environment, last_lines
from workers.engine_builds.trial_model import write_trial_model
from workers.server.child_process import free_port, parent_death_argv, signal_group

TRIAL_SECONDS = 120.0  # a first start on a card may compile kernels
_POLL_SECONDS = 0.05
_ANSWER_TOKENS = 8
_PROMPT = "The quick brown fox jumps over the lazy dog. " * 4  # a batch, for which other kernels run than for one token
_CRASHES = (signal.SIGILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGABRT)
_LETTERS = "root ::= [a-z]+"  # b8672 answers 500 ("Failed to parse input") to bytes that are not text
_CPU, _NO_DEVICE = "the CPU", "none"

Environment = Mapping[str, str]


def try_engine(binary: Path, env: Environment = MappingProxyType({})) -> tuple[Trial, tuple[Trial, ...]]:
    """(on the CPU, on each device that it lists). A device is tried only if the CPU passes.

    `env` is added to the engine's environment. Takes seconds, and at worst TRIAL_SECONDS for each device.
    """
    with tempfile.TemporaryDirectory(prefix="engine-trial-") as folder:
        model = write_trial_model(Path(folder) / "trial.gguf")
        cpu = _try_device(binary, model, _CPU, _NO_DEVICE, env)
        if cpu.problem:
            return cpu, ()
        devices = _listed_devices(binary, env)
        return cpu, tuple(_try_device(binary, model, label, name, env) for name, label in devices.items())


def _listed_devices(binary: Path, env: Environment) -> dict[str, str]:
    """By the names that --device takes: what people call them."""
    try:
        listed = list_devices(find_engine(str(binary)), env)
    except EngineNotFound:
        return {}
    devices = (*listed.cuda, *listed.vulkan) if listed else ()
    return {each.name: f"{each.name} ({each.description})" for each in devices}


def _try_device(binary: Path, model: Path, label: str, device: str, env: Environment) -> Trial:
    port, key = free_port(), secrets.token_urlsafe(32)
    arguments = {"--model": str(model), "--device": device, "--ctx-size": "512", "--host": "127.0.0.1"}
    layers = "0" if device == _NO_DEVICE else "99"
    given = [part for pair in arguments.items() for part in pair]
    command = [*parent_death_argv(), str(binary), *given, "--port", str(port), "--gpu-layers", layers]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            env={**engine_environment(env), "LLAMA_API_KEY": key},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            problem = _ask(process, port, key)
        finally:
            signal_group(process.pid, signal.SIGKILL)
            process.wait()
        if not problem:
            return Trial(label)
        log.seek(0)
        return Trial(label, problem + last_lines(log.read().decode(errors="replace")), _has_crashed(process))


def _has_crashed(process: subprocess.Popen[bytes]) -> bool:
    """By a signal of its own making; 128 and more from a shell that waited for it."""
    return any(process.returncode in (-number, 128 + number) for number in _CRASHES)


def _ask(process: subprocess.Popen[bytes], port: int, key: str) -> str:
    """What is wrong; "" once it has answered."""
    deadline = time.monotonic() + TRIAL_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return _ending(process.returncode)
        status, _ = _request(port, key, "GET", "/health", None, deadline)
        if status == 200:
            return _answer_problem(process, port, key, deadline)
        time.sleep(_POLL_SECONDS)
    return f"it was not ready after {TRIAL_SECONDS:.0f} s"


def _answer_problem(process: subprocess.Popen[bytes], port: int, key: str, deadline: float) -> str:
    body = {"prompt": _PROMPT, "max_tokens": _ANSWER_TOKENS, "grammar": _LETTERS}
    status, answer = _request(port, key, "POST", "/v1/completions", body, deadline)
    if status == 200 and isinstance(answer, dict) and answer.get("choices"):
        return ""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return _ending(process.wait(2.0))
    return f"it answers with status {status}" if status else f"it does not answer within {TRIAL_SECONDS:.0f} s"


def _ending(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"ended by {signal.Signals(-code).name}"
    return f"exit status {code}"


def _request(port: int, key: str, method: str, path: str, body: object, deadline: float) -> tuple[int | None, object]:
    """(status, JSON of the answer); (None, None) without one."""
    seconds = max(0.1, deadline - time.monotonic())
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds if body else min(2.0, seconds))
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    try:
        connection.request(method, path, json.dumps(body) if body else None, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError):
        return None, None
    finally:
        connection.close()
