"""The service under soak: its models, its engines, its machine, and how faults change them.

Models: STEADY is pinned, and no fault is aimed at it. REAL ones have the embedded engine, and SCRIPTED a fake one whose
behaviour each fault may choose.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import yaml

from bench.soak.account import Account
from bench.soak.client import Client
from bench.soak.machine import Gpus, StateDisk, WallClock
from bench.soak.outcome import CUT, REFUSED, Answer
from tests.helpers.fake_llama_server import install_fake
from tests.helpers.service import FIXED_RAM, Service
from workers.catalog.demo_model import write_demo_model

STEADY, REAL, SCRIPTED = "steady", ("alpha", "beta", "gamma", "delta"), "scripted"
HARDWARE_SECONDS = 0.2  # between two looks at the bookings
KEPT_LINES = 5000
MIB = 1024**2

# Short limits: what takes minutes in use takes seconds here.
SETTINGS: dict[str, Any] = {
    "server": {"threads": 160, "reserve_threads": 16, "max_body": "8MiB", "max_bodies": "32MiB",
               "receive_timeout_seconds": 3, "drain_seconds": 5, "stop_seconds": 2},
    "engine": {"assume_gpu": True},
    "gpu": {"reserve": 0, "poll_seconds": 0.25},
    "upstream": {"first_byte_seconds": 6, "stall_seconds": 6},
    "scheduling": {"max_waiting": 96, "max_waiting_per_model": 48, "max_wait_seconds": 25, "min_residency_seconds": 3,
                   "ttl_seconds": 20, "stall_timeout_seconds": 5, "hang_timeout_seconds": 4,
                   "max_excess_memory": "256MiB"},
    "defaults": {"ctx_size": 4096},
}  # fmt: skip

# Chooses the engine by the model. Both are executed in its place: the process that was started is the engine.
DISPATCHER = """\
#!{python} -SE
import os, sys
argv, fake = sys.argv[1:], {fake!r}
if "--alias" in argv and argv[argv.index("--alias") + 1] == {scripted!r}:
    known = ("--model", "--alias", "--host", "--port")
    os.execv(fake, [fake, *(word for name in known if name in argv for word in (name, argv[argv.index(name) + 1]))])
os.execv({python!r}, [{python!r}, "-P", {embedded!r}, *argv])
"""
CALM = {"FAKE_PORT_ZERO": 1, "FAKE_STREAM_TOKENS": 20, "FAKE_TOKEN_DELAY_SECONDS": 0.01}


class ReadService(Service):
    """Keeps the last lines of its log; `is_read` cleared, nobody reads them."""

    is_read = threading.Event()
    tracebacks = 0

    def _read(self) -> None:
        self.is_read.set()
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            self.tracebacks += "Traceback" in line
            if len(self.lines) > 2 * KEPT_LINES:
                del self.lines[:KEPT_LINES]
            self.is_read.wait()


class Target:
    """One service with its machine. Any thread may use it; `lock_for` keeps faults apart that would undo each other."""

    def __init__(self, folder: Path, account: Account) -> None:
        self.folder, self.account = folder, account
        self.models, self.config = folder / "models", folder / "config.yaml"
        self.gpus, self.clock = Gpus(folder / "hardware"), WallClock(folder)
        self.state_disk = StateDisk(folder / "state")
        self._locks: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._ended = threading.Event()
        self.demo = write_demo_model(folder / "written")
        self.models.mkdir()
        for name in (STEADY, *REAL, SCRIPTED):
            self.restore(name)
        self._fake = install_fake(folder / "scripted", **CALM)
        self.write_config(self.settings())
        self.service = self._started()
        self.client = Client(int(self.service.url.rpartition(":")[2]))
        self.worker = psutil.Process(self.service.worker.pid)
        threading.Thread(target=self._follow_bookings, daemon=True).start()

    def _started(self, *arguments: str) -> ReadService:
        plain = self.gpus.environment | self.clock.environment
        arguments = ("--config", str(self.config), *arguments)
        return ReadService(self.folder, *arguments, plain=plain, program=("-P", FIXED_RAM))

    def start_again(self) -> None:
        """Start another service in the place of one that was killed, on its port. For the main thread alone: the
        kernel ends the service with the thread that started it."""
        killed = self.service
        killed.end()
        self.service = self._started("--port", str(self.client.port))
        self.service.tracebacks += killed.tracebacks
        assert self.service.url.endswith(f":{self.client.port}")
        self.worker = psutil.Process(self.service.worker.pid)

    # --- configuration and files ----------------------------------------------------------------------------

    def settings(self) -> dict[str, Any]:
        models = {STEADY: {"pin": True, "preload": True}, SCRIPTED: {"n_gpu_layers": 0}}
        engine = {**SETTINGS["engine"], "binary": str(self._dispatcher())}
        return {**SETTINGS, "engine": engine, "catalog": {"models_dirs": [str(self.models)]}, "models": models}

    def write_config(self, settings: dict[str, Any]) -> None:
        new = self.config.with_suffix(".new")
        new.write_text(yaml.safe_dump(settings))
        os.replace(new, self.config)

    def restore(self, name: str) -> None:
        """Put a whole file in the model's place."""
        new = self.folder / f"{name}.new"
        shutil.copyfile(self.demo, new)
        os.replace(new, self.models / f"{name}.gguf")

    def _dispatcher(self) -> Path:
        path, embedded = (
            self.folder / "bin" / "llama-server",
            Path(__file__).parents[2] / "workers/engine/embedded_engine.py",
        )
        if not path.exists():
            path.parent.mkdir()
            names = {"python": sys.executable, "fake": str(self._fake), "scripted": SCRIPTED, "embedded": str(embedded)}
            path.write_text(DISPATCHER.format(**names))
            path.chmod(0o755)
        return path

    # --- requests ---------------------------------------------------------------------------------------------

    def ask(self, model: str, **fields: Any) -> Answer:
        """Send a chat, and count what becomes of it."""
        answer = self.client.chat(model, **fields)
        self.account.add(answer)
        return answer

    def expect(self, answer: Answer, *kinds: str) -> None:
        """Count an answer that must be one of these kinds."""
        found = self.account.add(answer)
        if found.kind not in (*kinds, REFUSED, CUT):
            self.account.fail(
                f"a request for {answer.model!r} got {found.kind}, not one of {kinds}: {answer.body[:300]!r}"
            )

    def unload(self, model: str) -> None:
        self.expect(
            self.client.post("/models/unload", {"model": model}), "200", "overloaded", "wait_timeout", "model_not_found"
        )

    def rescan(self) -> None:
        self.expect(self.client.get("/v1/models?reload=1"), "200", "overloaded")

    def health(self) -> dict[str, Any]:
        """Empty if there is no answer: the prober counts that."""
        answer = self.client.get("/health")
        found: dict[str, Any] = json.loads(answer.body) if answer.status == 200 and not answer.problem else {}
        return found

    def servers(self) -> list[dict[str, Any]]:
        return list(self.health().get("servers", []))

    # --- faults -----------------------------------------------------------------------------------------------

    def lock_for(self, what: str) -> threading.Lock:
        return self._locks[what]

    def an_engine(self, chance: random.Random, seconds: float = 10) -> tuple[str, psutil.Process] | None:
        """A REAL model that is loaded, or gets loaded now, and its engine's process; None if it cannot be loaded."""
        loaded = [each for each in self.servers() if each["model_id"] in REAL and each["state"] == "ready"]
        if not loaded:
            name = chance.choice(REAL)
            self.ask(name)
            loaded = [each for each in self.servers() if each["model_id"] == name and each["process"]]
        try:
            chosen = chance.choice(loaded)
            return chosen["model_id"], psutil.Process(chosen["process"])
        except (IndexError, psutil.Error):
            return None

    @contextlib.contextmanager
    def scripted(self, **settings: Any) -> Iterator[None]:
        """Start the scripted engine anew with these settings, and as it was afterwards."""
        with self.lock_for(SCRIPTED):
            self.unload(SCRIPTED)
            self._write_script(CALM | settings)
            try:
                yield
            finally:
                self._write_script(CALM)
                self.unload(SCRIPTED)
                self.client.post("/models/load", {"model": SCRIPTED})  # ends a backoff

    def _write_script(self, settings: dict[str, Any]) -> None:
        new = self.folder / "script.new"
        new.write_text(json.dumps(settings))
        os.replace(new, f"{self._fake}.json")

    # --- the machine ------------------------------------------------------------------------------------------

    def _follow_bookings(self) -> None:
        while not self._ended.wait(HARDWARE_SECONDS):
            with contextlib.suppress(ValueError, KeyError):
                self.gpus.hold(self.servers())

    def close(self) -> None:
        self._ended.set()
        self.service.is_read.set()
        self.service.end()
        self.state_disk.close()

    def come_to_rest(self, seconds: float = 60) -> bool:
        """Unload every model but STEADY and wait until nothing runs or waits. False: it did not."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            health = self.health()
            others = [each["model_id"] for each in health.get("servers", []) if each["model_id"] != STEADY]
            if health and not others and not health["waiting"] and not any(s["requests"] for s in health["servers"]):
                return True
            for name in others:
                self.client.post("/models/unload", {"model": name})
            time.sleep(0.5)
        return False
