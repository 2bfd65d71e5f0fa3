"""Runs the whole service as users start it: command line, gunicorn, a real engine, sockets."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import requests

from tests.helpers.preloaded import PreloadedProcess
from workers.server.child_process import parent_death_argv

FIXED_RAM = str(Path(__file__).with_name("fixed_ram.py"))
ENDLESS = {"max_tokens": 30_000, "ignore_eos": True}


class Service:
    """A running `llama-smart-proxy serve` with its own folders.

    The kernel kills it when the thread that started it ends, so that a killed pytest leaves no service behind.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        plain: Mapping[str, str] | None = None,
        program: Sequence[str] | None = None,
        **environment: str,
    ):
        """`environment` are settings, which get our prefix; `plain` are environment variables without a prefix."""
        self.folder = folder
        self.started_at = time.monotonic()
        env = {
            name: value for name, value in os.environ.items() if not name.startswith(("LLAMA_SMART_PROXY_", "CUDA_"))
        }
        env |= {
            "XDG_CACHE_HOME": str(folder / "cache"),
            "HF_HOME": str(folder / "huggingface"),
            "HOME": str(folder),  # LM Studio's models of who runs the tests are not served
            "OLLAMA_MODELS": str(folder / "ollama"),
            "XDG_STATE_HOME": str(folder / "state"),
            "PYTHONUNBUFFERED": "1",
        }
        # The demo model generates about 3,000 tokens/s: a stream that a test cuts off must not end before that.
        env["LLAMA_SMART_PROXY_DEFAULTS__CTX_SIZE"] = "32768"
        env["LLAMA_SMART_PROXY_DEFAULTS__THREADS"] = "1"  # two would spin at every barrier while others use the cores
        if plain is None:  # without a fake NVML, a test sees no GPUs, whatever the machine has
            env["LLAMA_SMART_PROXY_GPU__ENABLED"] = "false"
        env |= {f"LLAMA_SMART_PROXY_{name}": value for name, value in environment.items()} | dict(plain or {})
        self.process = start(program, ("serve", "--port", "0", *arguments), env)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def output(self) -> str:
        """What it has printed; of a process that has ended, all of it."""
        if self.process.poll() is not None:
            self._reader.join(2)  # engines that live on may hold the pipe
        return "\n".join(self.lines)

    # --- addresses ----------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        found = wait_for(lambda: re.search(r"OpenAI base URL\s+(http://\S+)/v1", self.output), 20, lambda: self.output)
        return str(found[1])

    def connect(self, receive_buffer_bytes: int | None = None) -> socket.socket:
        host, port = self.url.removeprefix("http://").split(":")
        connection = socket.socket()
        if receive_buffer_bytes:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        connection.settimeout(10)
        connection.connect((host, int(port)))
        return connection

    # --- requests -----------------------------------------------------------------------------------------

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=20)

    def post(self, path: str, body: dict[str, Any], **options: Any) -> requests.Response:
        return requests.post(self.url + path, json=body, **{"timeout": 60, **options})

    def chat(self, model: str = "demo", **fields: Any) -> requests.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 4, **fields}
        return self.post("/v1/chat/completions", body, stream=bool(fields.get("stream")))

    def send_raw(self, body: dict[str, Any], path: str = "/v1/chat/completions") -> socket.socket:
        """Send a request on a raw socket, which the caller may close at any time."""
        data = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "Hello!"}], **body}).encode()
        connection = self.connect()
        connection.sendall(
            b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(data)) + data
        )
        return connection

    def servers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("/health").json()["servers"]
        return found

    # --- processes ----------------------------------------------------------------------------------------

    @property
    def master(self) -> psutil.Process:
        return psutil.Process(self.process.pid)

    @property
    def worker(self) -> psutil.Process:
        return wait_for(lambda: self.master.children(), 10)[0]

    def engines(self) -> list[psutil.Process]:
        return [p for p in self.worker.children() if p.name() not in ("setpriv", "body-reader")]

    def family(self) -> list[psutil.Process]:
        return [self.master, *self.master.children(recursive=True)]

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 20) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout)
        finally:
            self._reader.join(5)

    def end(self) -> None:
        """Kill whatever is still running."""
        with contextlib.suppress(psutil.NoSuchProcess):  # the master has ended, or ends now
            for member in self.family():
                with contextlib.suppress(psutil.Error):
                    member.kill()
        self.process.wait(10)
        self._reader.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()


def start(
    program: Sequence[str] | None, arguments: Sequence[str], env: Mapping[str, str]
) -> subprocess.Popen[str] | PreloadedProcess:
    """The master process. Forked unless `program` is given, or Python's search path, read only by a new program."""
    if program is None and "PYTHONPATH" not in env:
        return PreloadedProcess(arguments, env)
    program = program or ("-P", FIXED_RAM)
    return subprocess.Popen(
        [*parent_death_argv(), sys.executable, *program, *arguments],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@contextlib.contextmanager
def serving(
    folder: Path,
    *arguments: str,
    plain: Mapping[str, str] | None = None,
    program: Sequence[str] | None = None,
    **environment: str,
) -> Iterator[Service]:
    service = Service(folder, *arguments, plain=plain, program=program, **environment)
    try:
        yield service
    finally:
        service.end()


def wait_for(condition: Callable[[], Any], seconds: float, explain: Callable[[], object] = lambda: "") -> Any:
    """The first truthy value of `condition`."""
    deadline, pause_seconds = time.monotonic() + seconds, 0.005
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {explain()}"
        time.sleep(pause_seconds)  # conditions are often requests, which would use a core without a pause
        pause_seconds = min(0.05, 1.3 * pause_seconds)
    return value


def has_exited(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True
