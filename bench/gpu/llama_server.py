"""One llama-server, started to be measured: from its start to the moment when its memory is free again."""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import signal
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.entities.launch import EngineFacts
from app.entities.model import Model
from app.use_cases.launch.launch import BUFFERS_LOGGED, launch_plan
from bench.gpu.stopping import Deadline, OutOfTime
from workers.engine.binary import engine_environment
from workers.measurement.memory_report import EngineReport
from workers.server.child_process import free_port, popen, signal_group
from workers.server.log import ServerLog, error_lines

POLL_SECONDS = 0.05
LOG_SECONDS = 0.5  # the last lines of a load are written by a thread of llama.cpp's
STOP_SECONDS = 10.0


class Failed(Exception):
    """This start did not work out; the message is the server's last words."""


class MeasuredServer:
    """A context manager: inside it the server is ready, after it its process is gone. Raises Failed, OutOfTime."""

    def __init__(
        self, model: Model, engine: EngineFacts, gpu_uuid: str | None, log_file: Path, deadline: Deadline
    ) -> None:
        self.report = EngineReport("--log-jsonl" in engine.flags)
        self.load_seconds = 0.0
        self._key = secrets.token_urlsafe(32)
        self._port = free_port()
        # One GPU alone: llama-server makes a CUDA context on every one it sees.
        launch = replace(model.launch, gpus=(gpu_uuid,) if gpu_uuid else ())
        plan = launch_plan(replace(model, launch=launch), engine, engine_environment(), self._key, self._port)
        # Builds without --log-jsonl are not asked for their buffers by the plan: level 4 of their log is a long one.
        logged = () if "-lv" in plan.argv or "-lv" not in engine.flags else ("-lv", BUFFERS_LOGGED)
        self._plan = replace(plan, argv=(*plan.argv, *logged))
        self._log = ServerLog()
        self._log_file = log_file
        self._deadline = deadline

    def __enter__(self) -> MeasuredServer:
        began = time.monotonic()
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        self._log_file.unlink(missing_ok=True)
        self._process = popen(self._plan)
        self._reader = threading.Thread(target=self._read, name="server-log", daemon=True)
        self._reader.start()
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        self.load_seconds = time.monotonic() - began
        time.sleep(LOG_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        """The answer to a request, as long as it may take. Raises Failed."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=max(1.0, self._deadline.seconds_left))
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        try:
            connection.request("POST", path, json.dumps(body), headers)
            response = connection.getresponse()
            said = json.loads(response.read())
        except TimeoutError:
            raise OutOfTime from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Failed(f"no answer to {path}: {error}\n{self._last_words()}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise Failed(f"{path} was answered {response.status}: {str(said)[:300]}")
        return said

    def stop(self) -> None:
        """SIGTERM to its group, SIGKILL if it does not end by that. Nothing is left of it."""
        for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, None)):
            signal_group(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
                break
        self._reader.join(STOP_SECONDS)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def _wait_until_ready(self) -> None:
        while self._health() != 200:
            if self._process.poll() is not None:
                self._reader.join(LOG_SECONDS)
                raise Failed(f"exit status {self._process.returncode}: {self._last_words()}")
            self._deadline.check()
            time.sleep(POLL_SECONDS)

    def _health(self) -> int | None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=1.0)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def _read(self) -> None:
        """The thread that drains the log, so that the server never waits for a reader."""
        assert self._process.stdout
        with contextlib.suppress(OSError, ValueError):  # the pipe was closed
            while data := self._process.stdout.read(1 << 16):
                self._keep(data)
                for line in self._log.feed(data):
                    self.report.read(line)

    def _keep(self, data: bytes) -> None:
        """For people. A disk that is full costs the copy, not the measurement."""
        with contextlib.suppress(OSError), open(self._log_file, "ab") as file:
            file.write(data)

    def _last_words(self) -> str:
        return error_lines(self._log.lines()) or "it said nothing"
