"""A llama-server that is started to be measured, and stopped afterwards."""

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
from app.use_cases.launch.command_line import BUFFERS_LOGGED, launch_plan
from workers.engine.probe_process import engine_environment
from workers.engine_builds.stopping import Deadline, OutOfTime
from workers.measurement.memory_report import EngineReport
from workers.server.child_process import free_port, popen, signal_group
from workers.server.log import ServerLog, error_lines

POLL_SECONDS = 0.05
LOG_SECONDS = 0.5  # llama.cpp's log thread writes the last lines of a load late
STOP_SECONDS = 10.0


class StartFailed(Exception):
    """The server failed to start or to answer; the message ends with its last log lines."""


class MeasuredServer:
    """Context manager: inside, the server is ready; afterwards it has exited. Raises StartFailed, OutOfTime."""

    def __init__(
        self, model: Model, engine: EngineFacts, gpu_uuid: str | None, log_file: Path, deadline: Deadline
    ) -> None:
        self.report = EngineReport("--log-jsonl" in engine.flags)
        self.load_seconds = 0.0
        self._key = secrets.token_urlsafe(32)
        self._port = free_port()
        # Only one GPU is visible: llama-server creates a CUDA context on every visible GPU.
        launch = replace(model.launch, gpus=(gpu_uuid,) if gpu_uuid else ())
        plan = launch_plan(replace(model, launch=launch), engine, engine_environment(), self._key, self._port)
        # The plan does not enable the buffer log of builds without --log-jsonl, whose log level 4 is verbose.
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
        """POST a request and wait for its answer until the deadline. Raises StartFailed, OutOfTime."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=max(1.0, self._deadline.seconds_left))
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        try:
            connection.request("POST", path, json.dumps(body), headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
        except TimeoutError:
            raise OutOfTime from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise StartFailed(f"no answer to {path}: {error}\n{self._last_words()}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise StartFailed(f"{path} returned {response.status}: {str(answer)[:300]}")
        return answer

    def stop(self) -> None:
        """SIGTERM to its process group, then SIGKILL if it does not exit in time."""
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
                raise StartFailed(f"exit status {self._process.returncode}: {self._last_words()}")
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
        """Log-reading thread: the server never blocks on a full pipe."""
        assert self._process.stdout
        with contextlib.suppress(OSError, ValueError):  # pipe closed
            while data := self._process.stdout.read(1 << 16):
                self._keep(data)
                for line in self._log.feed(data):
                    self.report.read(line)

    def _keep(self, data: bytes) -> None:
        """Append to the log file; a full disk does not fail the measurement."""
        with contextlib.suppress(OSError), open(self._log_file, "ab") as file:
            file.write(data)

    def _last_words(self) -> str:
        return error_lines(self._log.lines()) or "no log output"
