"""A machine with fake GPUs whose memory follows the engines of a real service, with checks of all bookings.

The engines are real and compute on the CPU; a thread polls /health and enters the GPU memory that they would use. A new
process first holds half of its booked memory, then all of it, and only then may it load its model. So every ready
server holds all of its memory, as on a real card, however slow the polling thread is.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import requests
import yaml

from tests.helpers.service import Service, serving, wait_for
from tests.helpers.stand_in_nvml import Card, StandIn
from workers.catalog.demo_model import write_demo_model

MIB = 1024**2
POLL_SECONDS = 0.02

# With 4,096 tokens the model needs 547 MiB, most of it CUDA overhead: two fit in 1,200 MiB. With 32,768 tokens it needs
# 857 MiB on one card, or 970 MiB on each of two.
SMALL: dict[str, Any] = {}
LARGE: dict[str, Any] = {"ctx_size": 32768}


def a_card(uuid: str, total_mib: int = 1200, used_mib: int = 0, **more: Any) -> Card:
    return Card(uuid, total_mib=total_mib, used_mib=used_mib, **more)


A, B = a_card("GPU-a", bus="00000000:01:00.0"), a_card("GPU-b", bus="00000000:02:00.0")

# A sitecustomize.py that blocks each engine until a file named after its pid exists next to it.
GATE = """\
import os, sys, time
path, until = os.path.join(os.path.dirname(__file__), str(os.getpid())), time.monotonic() + 20
while "--model" in sys.orig_argv and not os.path.exists(path) and time.monotonic() < until:
    time.sleep(0.002)
"""


@functools.cache
def _demo() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="demo-")
    _kept.append(folder)
    return write_demo_model(Path(folder.name))


_kept: list[tempfile.TemporaryDirectory[str]] = []  # removed at exit


class Machine:
    """The cards of one test, and the service that uses them."""

    def __init__(self, folder: Path) -> None:
        self.hardware = StandIn(folder / "hardware")
        # Share of its booked memory at which a new engine stays; any thread may set it.
        self.holds_back_at: float | None = None
        self.folder = folder
        self._gate = folder / "gate"
        self._cards: tuple[Card, ...] = ()  # without the engines' memory; the lock guards this and the next four
        self._faults: tuple[str, ...] = ()
        self._held: dict[int, dict[str, int]] = {}  # pid -> bytes by UUID, as entered
        self._loading: set[int] = set()  # pids that may load their model
        self._booked: dict[int, dict[str, int]] = {}  # pid -> bytes by UUID, as booked
        self._lock = threading.Lock()
        self.problems: list[str] = []  # violations; appended to by the polling thread
        self.polls = self.most_at_once = 0  # the latter: engines alive at the same time
        self._gate.mkdir(parents=True)
        (self._gate / "sitecustomize.py").write_text(GATE)

    def show(self, *cards: Card, faults: tuple[str, ...] = ()) -> None:
        """Set the cards. Their used memory and processes are those of other programs, in addition to the engines."""
        with self._lock:
            self._cards, self._faults = cards, faults
            self._enter()

    @contextlib.contextmanager
    def serving(
        self, *arguments: str, models: dict[str, dict[str, Any]], gpu: dict[str, Any] | None = None, **environment: str
    ) -> Iterator[Service]:
        """The service with the embedded engine, copies of the demo model, and no GPU reserve."""
        defaults = {"ENGINE__BINARY": "embedded", "ENGINE__ASSUME_GPU": "true", "DEFAULTS__CTX_SIZE": "4096"}
        config = self.config(models, gpu or {})
        with serving(
            self.folder,
            *("--config", str(config), *arguments),
            plain=self.hardware.environment,
            **{**defaults, **environment},
        ) as service:
            ended = threading.Event()
            poller = threading.Thread(target=self._poll, args=(service, ended), daemon=True)
            poller.start()
            try:
                yield service
            finally:
                ended.set()
                poller.join(20)
        assert self.polls and self.problems == [], self.problems

    def config(self, models: dict[str, dict[str, Any]], gpu: dict[str, Any]) -> Path:
        """A configuration with these models, each a copy of the demo model."""
        folder = self.folder / "models"
        folder.mkdir(exist_ok=True)
        for name in models:
            (folder / f"{name}.gguf").unlink(missing_ok=True)
            os.link(_demo(), folder / f"{name}.gguf")
        config = {
            "catalog": {"models_dirs": [str(folder)]},
            "models": models,
            "gpu": {"reserve": 0, "poll_seconds": 0.1, **gpu},
            "engine": {"env": {"PYTHONPATH": str(self._gate)}},
        }
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    # --- the polling thread ---------------------------------------------------------------------------------

    def _poll(self, service: Service, ended: threading.Event) -> None:
        try:
            with requests.Session() as session:
                while not ended.wait(POLL_SECONDS):
                    servers = session.get(f"{service.url}/health", timeout=20).json()["servers"]
                    with self._lock:
                        self._update(servers)
                    self.polls += 1
        except Exception as error:  # the service exited, or this is a bug
            self.problems.append(repr(error))

    def _update(self, servers: list[dict[str, Any]]) -> None:
        booked = {server["process"]: _on_gpus(server) for server in servers if server["process"]}
        self._booked = {pid: each for pid, each in (self._booked | booked).items() if _is_alive(pid)}
        self.most_at_once = max(self.most_at_once, len(self._booked))
        promised = [_on_gpus(server) for server in servers if not server["process"]]
        self._check([*self._booked.values(), *promised])
        before = self._held
        self._held = {pid: self._taken(pid, each) for pid, each in self._booked.items()}
        if before != self._held:
            self._enter()
        for pid in self._held:
            if pid in self._loading:
                (self._gate / str(pid)).touch()
            elif pid in before and self.holds_back_at is None:
                self._loading.add(pid)

    def _taken(self, pid: int, booked: dict[str, int]) -> dict[str, int]:
        if pid in self._loading:
            return booked
        self._check_visible(pid, booked)
        share = 0.5 if self.holds_back_at is None else self.holds_back_at
        return {uuid: int(share * size) for uuid, size in booked.items()}

    def _check(self, bookings: list[dict[str, int]]) -> None:
        """Check that no card is overbooked."""
        ours: Counter[str] = Counter()
        for each in bookings:
            ours.update(each)
        for card in self._cards:
            others = MIB * (card.used_mib + sum(card.processes.values()))
            if ours[card.uuid] + others > MIB * card.total_mib:
                self.problems.append(f"{card.uuid}: bookings {bookings} plus other programs' {others} exceed its total")

    def _check_visible(self, pid: int, booked: dict[str, int]) -> None:
        with contextlib.suppress(psutil.Error):
            environment = psutil.Process(pid).environ()
            shown = environment.get("CUDA_VISIBLE_DEVICES")  # None: the process is just executing another program
            if (
                shown is not None
                and "GGML_VK_VISIBLE_DEVICES" not in environment
                and {uuid for uuid in shown.split(",") if uuid} != set(booked)
            ):
                self.problems.append(f"process {pid} sees {shown}, but {booked} is booked")

    def _enter(self) -> None:
        self.hardware.show(*map(self._filled, self._cards), faults=self._faults)

    def _filled(self, card: Card) -> Card:
        ours = {pid: -(-held[card.uuid] // MIB) for pid, held in self._held.items() if card.uuid in held}
        return replace(card, processes={**card.processes, **ours})


def _on_gpus(server: dict[str, Any]) -> dict[str, int]:
    return {device: size for device, size in server["booked_bytes"].items() if device != "cpu"}


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# --- as reported by the service -----------------------------------------------------------------------------


def gpus(service: Service) -> dict[str, dict[str, Any]]:
    """The cards in /health, by UUID."""
    return {gpu["uuid"]: gpu for gpu in service.get("/health").json()["gpu_pool_status"]["gpus"]}


def sees(service: Service, *uuids: str) -> None:
    """Wait until the service sees exactly these cards, in this order."""
    wait_for(lambda: list(gpus(service)) == list(uuids), 20, lambda: gpus(service))


def sees_used(service: Service, **used_mib: int) -> None:
    """Wait until the service sees at least this much used memory, as in GPU_a=400."""
    for name, mib in used_mib.items():
        wait_for(lambda: gpus(service)[name.replace("_", "-")]["used_bytes"] >= mib * MIB, 20)  # noqa: B023


def device_of(service: Service, model: str) -> str:
    """Send a request for the model; returns the device that answered."""
    with service.chat(model) as answer:
        assert answer.status_code == 200, answer.text
        return answer.headers["x-llama-smart-proxy-device"]


def refusal(service: Service, model: str, status: int, code: str) -> tuple[dict[str, Any], str | None]:
    """Send a request for the model that must fail; returns its error and Retry-After."""
    with service.chat(model) as answer:
        assert answer.status_code == status, answer.text
        error: dict[str, Any] = answer.json()["error"]
    assert error["code"] == code
    return error, answer.headers.get("Retry-After")


def placement_of(service: Service, model: str) -> dict[str, Any]:
    found: dict[str, Any] = service.get(f"/v1/models/{model}").json()["placement"]
    return found


def loaded(service: Service) -> dict[str, dict[str, Any]]:
    """The servers in /health, by model."""
    return {server["model_id"]: server for server in service.servers()}


def process_of(service: Service, model: str) -> psutil.Process:
    return psutil.Process(loaded(service)[model]["process"])


def visible(process: psutil.Process) -> list[str]:
    """The GPUs in the process's CUDA_VISIBLE_DEVICES."""
    return [uuid for uuid in process.environ()["CUDA_VISIBLE_DEVICES"].split(",") if uuid]


def option(process: psutil.Process, name: str) -> str | None:
    argv = process.cmdline()
    return argv[argv.index(name) + 1] if name in argv else None


def decisions(service: Service, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.get(f"/decisions{query}").json()["decisions"]
    return found


def claimed_bytes(service: Service, uuid: str) -> float:
    """Claimed bytes of the GPU, from the metrics."""
    return series(service, "llama_smart_proxy_gpu_memory_claimed_bytes")[f'gpu="0",uuid="{uuid}"']


def series(service: Service, name: str) -> dict[str, float]:
    """The values of a metric, by labels."""
    lines = service.get("/metrics").text.splitlines()
    found = (line.removeprefix(name + "{").rsplit("} ", 1) for line in lines if line.startswith(name + "{"))
    return {labels: float(value) for labels, value in found}
