"""The door to the scheduler: what is worked out on the request's own thread, and what never gets into the queue."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import pytest

from app.entities.memory import MemoryReading
from app.entities.model import Model
from app.entities.placement import Decision, Outcome
from app.entities.server import Server
from app.errors import InvalidModelFile
from app.use_cases import events as ev
from app.use_cases.asked import Asked
from app.use_cases.pool_state import PoolState
from tests.builders import GIB, a_model, asked_for, replace
from workers.pool import Pool
from workers.state import StateStore


class Process:
    """Ready as soon as it is started, gone as soon as it is stopped."""

    api_key = "key"

    def __init__(self, server: Server, tell: Callable[[ev.Event], None]) -> None:
        self.server, self.tell = server, tell
        tell(ev.Ready(server.id, 9000, time.monotonic()))

    def stop(self) -> None:
        self.tell(ev.Exited(self.server.id, "", time.monotonic()))

    def count_slots(self) -> None: ...
    def kill(self) -> None: ...


class Client:
    def on_leave(self, callback: Callable[[], None] | None) -> None: ...


def read_memory(pids: Mapping[int, int]) -> MemoryReading:
    return MemoryReading(16 * GIB, 16 * GIB, time.monotonic())


class Case:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.store = StateStore(PoolState())
        self.pool = Pool(self.store, Process, read_memory, lambda: None, self.needs)
        self.pool.start()

    def needs(self, model: Model) -> Asked:
        self.asked.append(model.name)
        if model.name == "bad":
            raise InvalidModelFile(model.name, "its header ends too early")
        return asked_for(3 * GIB)

    def acquire(self, model: Model) -> None:
        lease = self.pool.acquire(model, 10, Client())  # type: ignore[arg-type]
        self.pool.release(lease, ev.Ending.COMPLETE)


def test_a_server_is_booked_with_what_its_model_needs():
    case = Case()
    case.acquire(a_model())
    assert [server.expected_bytes for server in case.store.pool.servers] == [3 * GIB]


def test_a_model_that_is_loaded_is_not_worked_out_again():
    case = Case()
    for _ in range(3):
        case.acquire(a_model())
    case.pool.load(a_model(), 10, Client())  # type: ignore[arg-type]
    assert case.asked == ["a"]
    case.acquire(replace(a_model(), created=2))
    assert case.asked == ["a", "a"], "its file has changed"


def test_a_model_that_cannot_be_served_is_refused_before_it_waits():
    case = Case()
    for ask in (case.acquire, lambda model: case.pool.load(model, 10, Client())):
        with pytest.raises(InvalidModelFile):
            ask(a_model("bad"))
    assert case.store.pool == PoolState()


def test_a_load_that_goes_on_waiting_is_one_record():
    """It is decided anew with each reading; two hundred of those would push out all that was decided before."""
    case = Case()
    case.acquire(a_model("a"))
    lease = case.pool.acquire(a_model("a"), 10, Client())  # type: ignore[arg-type]
    waiting = Decision(Outcome.WAIT, "it has room once a is no longer busy", 3 * GIB)
    for number in range(3):
        for name in ("b", "c"):  # both wait, and are looked at by turns
            case.pool._explain(ev.Decided(name, waiting, ("a",)), case.store.pool, float(number), 0.1)
    assert [each.model for each in case.store.decisions] == ["a", "b", "c"]
    case.pool._explain(ev.Decided("b", replace(waiting, outcome=Outcome.PLACE), ()), case.store.pool, 9.0, 0.1)
    assert len(case.store.decisions) == 4
    case.pool.release(lease, ev.Ending.COMPLETE)
