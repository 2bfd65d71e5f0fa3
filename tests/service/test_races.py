"""Bursts and racing requests with real processes; afterwards no process or booking is left.

RACE_SECONDS sets the duration of the timed races; use a minute or more by hand.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.helpers.service import ENDLESS, Service, serving, wait_for
from tests.service.test_faults import error_of, faulty, journal
from workers.catalog.demo_model import write_demo_model

RACE_SECONDS = float(os.environ.get("RACE_SECONDS", "6"))


def models_of(folder: Path, *names: str) -> tuple[str, str]:
    """Arguments for a models folder with a copy of the demo model under each name."""
    demo = write_demo_model(folder / "written").read_bytes()
    (folder / "models").mkdir()
    for name in names:
        (folder / "models" / f"{name}.gguf").write_bytes(demo)
    return "--models-dir", str(folder / "models")


def spawned(service: Service, model: str = "") -> int:
    return sum("spawn server=" in line and f"model={model}" in line for line in service.lines)


@contextlib.contextmanager
def nothing_left(service: Service, model: str) -> Iterator[None]:
    """Assert that a race leaves no process, booking, queue entry or file descriptor behind."""
    assert service.chat(model, max_tokens=1).status_code == 200  # opens what stays open
    unload(service)
    wait_for(lambda: not service.engines(), 10)
    before = wait_for(lambda: is_at_rest(service) and service.worker.num_fds(), 20)
    yield
    unload(service)
    wait_for(lambda: is_at_rest(service), 20, lambda: service.get("/health").text)
    wait_for(lambda: service.worker.num_fds() <= before, 20, lambda: (service.worker.num_fds(), before))
    assert not [p for p in service.family() if p.status() == psutil.STATUS_ZOMBIE]


def unload(service: Service) -> None:
    for server in service.servers():
        assert service.post("/models/unload", {"model": server["model_id"]}).status_code == 200


def is_at_rest(service: Service) -> bool:
    """Whether there are no servers, engine processes or waiting requests."""
    health = service.get("/health").json()
    return health["servers"] == [] and health["waiting"] == 0 and not service.engines()


def test_requests_at_the_moment_of_the_ttl_are_all_answered(tmp_path: Path):
    """One request per second for a model with a TTL of one second: its server is ready, stopping or stopped."""
    around = (-0.04, -0.02, -0.01, 0.0, 0.005, 0.01, 0.02, 0.04)
    with serving(tmp_path, SCHEDULING__TTL_SECONDS="1") as service, nothing_left(service, "demo"):
        until, statuses, before = time.monotonic() + RACE_SECONDS, list[int](), spawned(service)
        while time.monotonic() < until or not 1 < spawned(service) - before < len(statuses):
            assert time.monotonic() < until + 60, "some find it loaded, some do not"
            statuses.append(service.chat(max_tokens=1).status_code)
            time.sleep(1 + around[len(statuses) % len(around)])
        assert set(statuses) == {200}


def test_an_unload_during_a_load_answers_all_waiting_requests(tmp_path: Path):
    settings = {"FAKE_LOAD_SECONDS": 3, "FAKE_PORT_ZERO": 1, "FAKE_PROGRESS": 0.6}
    with faulty(tmp_path, **settings) as service, nothing_left(service, "m"):
        with ThreadPoolExecutor(10) as pool:
            bodies = [{"model": "m", "messages": [], "stream": number % 2 == 0} for number in range(10)]
            path, own = "/v1/chat/completions", {"Connection": "close"}  # else the connections stay open
            waiting = [pool.submit(service.post, path, body, headers=own) for body in bodies]
            wait_for(lambda: service.get("/health").json()["waiting"] == 10, 5)
            wait_for(lambda: service.get("/v1/models/m").json()["status"].get("progress", {}).get("value") == 0.6, 20)
            assert service.post("/models/unload", {"model": "m"}).json() == {"success": True}
            assert is_at_rest(service), "the process has ended when the unload is answered"
            answers = [request.result(20) for request in waiting]
        for answer in answers:
            if answer.status_code == 200:  # a stream that had begun
                assert '"code": "model_unloaded"' in answer.text and "[DONE]" not in answer.text
            else:
                assert (answer.status_code, error_of(answer)["code"]) == (503, "model_unloaded")
                assert int(answer.headers["Retry-After"]) >= 1
        assert len(journal(service, "request")) == 1, "only the request before the race"


def test_fifty_disconnected_clients_leave_the_queue_at_once(tmp_path: Path):
    with faulty(tmp_path, FAKE_LOAD_SECONDS=3, FAKE_PORT_ZERO=1) as service, nothing_left(service, "m"):
        before = spawned(service)
        with ThreadPoolExecutor(50) as pool:
            for request in [pool.submit(disconnect_after, 0.2, service, "m") for _ in range(50)]:
                request.result(20)
        wait_for(lambda: service.get("/health").json()["waiting"] == 0, 2)
        wait_for(lambda: [server["state"] for server in service.servers()] == ["ready"], 20)
        assert spawned(service) - before == 1, "the load continued and was the only one"
        assert len(journal(service, "request")) == 1, "only the request before the race"


def disconnect_after(seconds: float, service: Service, model: str) -> None:
    with pytest.raises(requests.exceptions.Timeout):
        service.post("/v1/chat/completions", {"model": model, "messages": []}, timeout=(10, seconds))


def test_a_load_whose_clients_disconnected_is_not_started(tmp_path: Path):
    arguments = models_of(tmp_path, "busy", "wanted")
    with serving(tmp_path, *arguments, SCHEDULING__MAX_LOADED="1") as service, nothing_left(service, "busy"):
        with service.send_raw({"model": "busy", "stream": True, **ENDLESS}) as stream:
            stream.recv(1)
            for _ in range(5):
                disconnect_after(0.2, service, "wanted")
            wait_for(lambda: service.get("/health").json()["waiting"] == 0, 2)
        wait_for(lambda: service.servers()[0]["requests"] == 0, 10)
        assert service.chat("busy", max_tokens=1).status_code == 200, "the scheduler ran while an eviction was possible"
        assert spawned(service, "wanted") == 0


# --- a burst beyond capacity -----------------------------------------------------------------------------------------

BURST = 1000
MEASURED_REJECTION_SECONDS = 3.0  # slowest of 100 sent within 0.2 s, on two shared cores


@dataclass
class RawRequest:
    """A request on a socket, and its answer."""

    connection: socket.socket
    content: bytes
    began: float = field(default_factory=time.monotonic)
    answer: bytearray = field(default_factory=bytearray)
    seconds: float = 0.0

    @property
    def status(self) -> int:
        return int(self.answer.split(b" ", 2)[1]) if self.answer else 0

    @property
    def code(self) -> str:
        return str(json.loads(self.answer.partition(b"\r\n\r\n")[2])["error"]["code"])


def burst(service: Service, bodies: list[dict[str, Any]]) -> list[RawRequest]:
    """Send all requests at once from one thread; each connection closes after its answer."""
    host, port = service.url.removeprefix("http://").split(":")
    selector, sent = selectors.DefaultSelector(), list[RawRequest]()
    for body in bodies:
        data = json.dumps({"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 1, **body}).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(data)}"
        )
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex((host, int(port)))
        request = RawRequest(connection, head.encode() + b"\r\n\r\n" + data)
        sent.append(request)
        selector.register(connection, selectors.EVENT_WRITE, request)
    deadline, pending = time.monotonic() + 120, len(sent)
    while pending and time.monotonic() < deadline:
        for key, ready in selector.select(1):
            pending -= _advance(selector, key.data, ready)
    assert not pending, f"{pending} requests were not answered"
    return sent


def _advance(selector: selectors.BaseSelector, request: RawRequest, ready: int) -> bool:
    """Continue one request; True once it is complete."""
    if ready & selectors.EVENT_WRITE:
        request.connection.sendall(request.content)
        selector.modify(request.connection, selectors.EVENT_READ, request)
        return False
    piece = request.connection.recv(65536)
    request.answer += piece
    if piece:
        return False
    request.seconds = time.monotonic() - request.began
    selector.unregister(request.connection)
    request.connection.close()
    return True


def test_every_request_of_a_burst_beyond_capacity_is_answered_or_rejected_soon(tmp_path: Path):
    names = ("one", "two", "three")
    with serving(tmp_path, *models_of(tmp_path, *names)) as service, nothing_left(service, "one"):
        sent = burst(service, [{"model": names[number % 3]} for number in range(BURST)])
        statuses = Counter(request.status for request in sent)
        assert statuses.keys() <= {200, 429, 503} and sum(statuses.values()) == BURST, statuses
        assert statuses[200] >= 256, "at least as many as may wait"
        rejected = [request for request in sent if request.status != 200]
        assert {request.code for request in rejected} <= {"queue_full", "overloaded"}
        assert all(b"\r\nRetry-After: " in request.answer for request in rejected)
        slowest = statistics.quantiles([request.seconds for request in rejected], n=100)[98]
        print(statuses, f"p99 of rejections: {slowest:.3f} s")
        assert slowest < 20 * MEASURED_REJECTION_SECONDS
        assert service.get("/readyz").status_code == 200


# --- mutually exclusive models ---------------------------------------------------------------------------------------

RESIDENCY_SECONDS, MAX_WAIT_SECONDS = 1.5, 20.0


@pytest.mark.parametrize("client", ["keeps to one", "alternates"])
def test_two_mutually_exclusive_models_alternate_without_starvation(tmp_path: Path, client: str):
    """If both models are always in demand, swaps are rare. If all clients of one want the other next, protecting the
    loaded one helps nobody: the swap begins as soon as it pays."""
    settings = {
        "SCHEDULING__MAX_LOADED": "1",
        "SCHEDULING__MIN_RESIDENCY_SECONDS": str(RESIDENCY_SECONDS),
        "SCHEDULING__MAX_WAIT_SECONDS": str(MAX_WAIT_SECONDS),
    }
    with serving(tmp_path, *models_of(tmp_path, "a", "b"), **settings) as service, nothing_left(service, "a"):
        before, until, waits = spawned(service), time.monotonic() + RACE_SECONDS, dict[str, list[float]](a=[], b=[])
        statuses: set[int] = set()

        def ask(number: int) -> None:
            while (began := time.monotonic()) < until:
                name = "ab"[number % 2]
                statuses.add(service.chat(name, max_tokens=1).status_code)
                waits[name].append(time.monotonic() - began)
                number += client == "alternates"
                time.sleep(0.05)  # both models are in demand nevertheless, and the other tests get the cores

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(8)))
        loads, longest = spawned(service) - before, max(map(max, waits.values()))
        print(f"loads={loads} answers={[len(seconds) for seconds in waits.values()]} longest={longest:.1f}")
        assert statuses == {200}
        assert longest < MAX_WAIT_SECONDS
        assert loads >= 2
        if client == "keeps to one":
            assert loads <= RACE_SECONDS / RESIDENCY_SECONDS + 3
