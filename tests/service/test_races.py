"""Many at once, and orders that cross: real processes, and afterwards nothing is left of them.

RACE_SECONDS says for how long the races against the clock are run; a minute and more by hand.
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
    """Arguments for as many copies of the demo model."""
    demo = write_demo_model(folder / "written").read_bytes()
    (folder / "models").mkdir()
    for name in names:
        (folder / "models" / f"{name}.gguf").write_bytes(demo)
    return "--models-dir", str(folder / "models")


def spawned(service: Service, model: str = "") -> int:
    return sum("spawn server=" in line and f"model={model}" in line for line in service.lines)


@contextlib.contextmanager
def nothing_left(service: Service, model: str) -> Iterator[None]:
    """Around a race: no process, nothing booked, nobody in the queue, and as many file descriptors as before it."""
    assert service.chat(model, max_tokens=1).status_code == 200  # what is opened once is open now
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
    """No server has anything booked, no process is there, nobody waits."""
    health = service.get("/health").json()
    return health["servers"] == [] and health["waiting"] == 0 and not service.engines()


def test_requests_at_the_moment_of_the_ttl_are_all_answered(tmp_path: Path):
    """One a second, of a model that goes after a second: each meets a server that stays, goes, or is gone."""
    around = (-0.04, -0.02, -0.01, 0.0, 0.005, 0.01, 0.02, 0.04)
    with serving(tmp_path, SCHEDULING__TTL_SECONDS="1") as service, nothing_left(service, "demo"):
        until, statuses, before = time.monotonic() + RACE_SECONDS, list[int](), spawned(service)
        while time.monotonic() < until or not 1 < spawned(service) - before < len(statuses):
            assert time.monotonic() < until + 60, "some meet it loaded, some do not"
            statuses.append(service.chat(max_tokens=1).status_code)
            time.sleep(1 + around[len(statuses) % len(around)])
        assert set(statuses) == {200}


def test_an_unload_in_the_middle_of_a_load_tells_all_who_wait(tmp_path: Path):
    settings = {"FAKE_LOAD_SECONDS": 3, "FAKE_PORT_ZERO": 1, "FAKE_PROGRESS": 0.6}
    with faulty(tmp_path, **settings) as service, nothing_left(service, "m"):
        with ThreadPoolExecutor(10) as pool:
            bodies = [{"model": "m", "messages": [], "stream": number % 2 == 0} for number in range(10)]
            path, own = "/v1/chat/completions", {"Connection": "close"}  # else they stay open as long as the answers
            waiting = [pool.submit(service.post, path, body, headers=own) for body in bodies]
            wait_for(lambda: service.get("/health").json()["waiting"] == 10, 5)
            wait_for(lambda: service.get("/v1/models/m").json()["status"].get("progress") == 0.6, 20)
            assert service.post("/models/unload", {"model": "m"}).json() == {"success": True}
            assert is_at_rest(service), "when the order is answered, its process is gone"
            answers = [each.result(20) for each in waiting]
        for answer in answers:
            if answer.status_code == 200:  # a stream that had begun
                assert '"code": "model_unloaded"' in answer.text and "[DONE]" not in answer.text
            else:
                assert (answer.status_code, error_of(answer)["code"]) == (503, "model_unloaded")
                assert int(answer.headers["Retry-After"]) >= 1
        assert len(journal(service, "request")) == 1, "the one before"


def test_fifty_clients_that_leave_a_load_leave_the_queue_at_once(tmp_path: Path):
    with faulty(tmp_path, FAKE_LOAD_SECONDS=3, FAKE_PORT_ZERO=1) as service, nothing_left(service, "m"):
        before = spawned(service)
        with ThreadPoolExecutor(50) as pool:
            for left in [pool.submit(leave_after, 0.2, service, "m") for _ in range(50)]:
                left.result(20)
        wait_for(lambda: service.get("/health").json()["waiting"] == 0, 2)
        wait_for(lambda: [each["state"] for each in service.servers()] == ["ready"], 20)
        assert spawned(service) - before == 1, "the load went on, and was the only one"
        assert len(journal(service, "request")) == 1, "the one before"


def leave_after(seconds: float, service: Service, model: str) -> None:
    with pytest.raises(requests.exceptions.Timeout):
        service.post("/v1/chat/completions", {"model": model, "messages": []}, timeout=(10, seconds))


def test_a_load_that_nobody_waits_for_any_more_is_not_started(tmp_path: Path):
    arguments = models_of(tmp_path, "busy", "wanted")
    with serving(tmp_path, *arguments, SCHEDULING__MAX_LOADED="1") as service, nothing_left(service, "busy"):
        with service.send_raw({"model": "busy", "stream": True, **ENDLESS}) as stream:
            stream.recv(1)
            for _ in range(5):
                leave_after(0.2, service, "wanted")
            wait_for(lambda: service.get("/health").json()["waiting"] == 0, 2)
        wait_for(lambda: service.servers()[0]["requests"] == 0, 10)
        assert service.chat("busy", max_tokens=1).status_code == 200, "so it has seen that there is room to be had"
        assert spawned(service, "wanted") == 0


# --- a burst beyond all bounds ---------------------------------------------------------------------------------------

BURST = 2000
MEASURED_REFUSAL_SECONDS = 3.0  # the slowest of a hundred, all sent in 0.2 s, on two cores that others share


@dataclass
class Asker:
    """One request on a socket, and what came back."""

    connection: socket.socket
    request: bytes
    began: float = field(default_factory=time.monotonic)
    answer: bytearray = field(default_factory=bytearray)
    seconds: float = 0.0

    @property
    def status(self) -> int:
        return int(self.answer.split(b" ", 2)[1]) if self.answer else 0

    @property
    def code(self) -> str:
        return str(json.loads(self.answer.partition(b"\r\n\r\n")[2])["error"]["code"])


def burst(service: Service, bodies: list[dict[str, Any]]) -> list[Asker]:
    """All of them at once, from one thread; each connection is closed by its answer."""
    host, port = service.url.removeprefix("http://").split(":")
    selector, askers = selectors.DefaultSelector(), list[Asker]()
    for body in bodies:
        data = json.dumps({"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 1, **body}).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(data)}"
        )
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex((host, int(port)))
        asker = Asker(connection, head.encode() + b"\r\n\r\n" + data)
        askers.append(asker)
        selector.register(connection, selectors.EVENT_WRITE, asker)
    deadline, open_ones = time.monotonic() + 120, len(askers)
    while open_ones and time.monotonic() < deadline:
        for key, ready in selector.select(1):
            open_ones -= _went_on(selector, key.data, ready)
    assert not open_ones, f"{open_ones} were not answered"
    return askers


def _went_on(selector: selectors.BaseSelector, asker: Asker, ready: int) -> bool:
    """Whether it is over."""
    if ready & selectors.EVENT_WRITE:
        asker.connection.sendall(asker.request)
        selector.modify(asker.connection, selectors.EVENT_READ, asker)
        return False
    piece = asker.connection.recv(65536)
    asker.answer += piece
    if piece:
        return False
    asker.seconds = time.monotonic() - asker.began
    selector.unregister(asker.connection)
    asker.connection.close()
    return True


def test_a_burst_beyond_capacity_is_answered_or_refused_to_the_last_and_soon(tmp_path: Path):
    names = ("one", "two", "three")
    with serving(tmp_path, *models_of(tmp_path, *names)) as service, nothing_left(service, "one"):
        askers = burst(service, [{"model": names[number % 3]} for number in range(BURST)])
        statuses = Counter(asker.status for asker in askers)
        assert statuses.keys() <= {200, 429, 503} and sum(statuses.values()) == BURST, statuses
        assert statuses[200] >= 256, "as many as may wait"
        refused = [asker for asker in askers if asker.status != 200]
        assert {asker.code for asker in refused} <= {"queue_full", "overloaded"}
        assert all(b"\r\nRetry-After: " in asker.answer for asker in refused)
        slowest = statistics.quantiles([asker.seconds for asker in refused], n=100)[98]
        print(statuses, f"p99 of refusals: {slowest:.3f} s")
        assert slowest < 20 * MEASURED_REFUSAL_SECONDS
        assert service.get("/readyz").status_code == 200


# --- two that exclude each other -------------------------------------------------------------------------------------

RESIDENCY_SECONDS, LONGEST_WAIT_SECONDS = 1.5, 20.0


@pytest.mark.parametrize("each", ["keeps to one", "alternates"])
def test_two_that_exclude_each_other_take_turns_and_nobody_starves(tmp_path: Path, each: str):
    """Where both are asked for all the time, they are swapped seldom. Where all who asked for the one want the other
    next, nobody is served by waiting: the next load begins as soon as it is worth it."""
    settings = {
        "SCHEDULING__MAX_LOADED": "1",
        "SCHEDULING__MIN_RESIDENCY_SECONDS": str(RESIDENCY_SECONDS),
        "SCHEDULING__MAX_WAIT_SECONDS": str(LONGEST_WAIT_SECONDS),
    }
    with serving(tmp_path, *models_of(tmp_path, "a", "b"), **settings) as service, nothing_left(service, "a"):
        before, until, waits = spawned(service), time.monotonic() + RACE_SECONDS, dict[str, list[float]](a=[], b=[])
        statuses: set[int] = set()

        def ask(number: int) -> None:
            while (began := time.monotonic()) < until:
                name = "ab"[number % 2]
                statuses.add(service.chat(name, max_tokens=1).status_code)
                waits[name].append(time.monotonic() - began)
                number += each == "alternates"

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(8)))
        loads, longest = spawned(service) - before, max(map(max, waits.values()))
        print(f"loads={loads} answers={[len(some) for some in waits.values()]} longest={longest:.1f}")
        assert statuses == {200}
        assert longest < LONGEST_WAIT_SECONDS
        assert loads >= 2
        if each == "keeps to one":
            assert loads <= RACE_SECONDS / RESIDENCY_SECONDS + 3
