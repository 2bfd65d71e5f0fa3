"""The door to the scheduler: what is worked out on the request's own thread, and what never gets into the queue."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.entities.memory import MemoryReading
from app.entities.model import Model
from app.entities.placement import Decision, Outcome
from app.entities.server import Server
from app.errors import InvalidModelFile, WaitTimeout
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import Decided
from app.use_cases.scheduling.pool_state import PoolState, SchedulingLimits
from tests.helpers.builders import GIB, a_launch, a_model, asked_for, replace
from workers.pool.pool import Pool
from workers.telemetry.store import StateStore


class Process:
    """Ready as soon as it is started, gone as soon as it is stopped."""

    api_key = "key"

    def __init__(self, server: Server, post: Callable[[ev.Event], None]) -> None:
        self.server, self.post = server, post
        post(ev.Ready(server.id, 9000, time.monotonic()))

    def stop(self, saves: bool = False) -> None:
        self.post(ev.Exited(self.server.id, "", time.monotonic()))

    def count_slots(self) -> None: ...
    def kill(self) -> None: ...


class Client:
    def on_disconnect(self, callback: Callable[[], None] | None) -> None: ...
    def begin(self) -> None: ...


def read_memory(pids: Mapping[int, int]) -> MemoryReading:
    return MemoryReading(16 * GIB, 16 * GIB, time.monotonic())


class Case:
    def __init__(self, limits: SchedulingLimits | None = None) -> None:
        self.asked: list[str] = []
        self.store = StateStore(PoolState())
        self.stepped_on: list[int] = []
        note = lambda before, event, effects: self.stepped_on.append(threading.get_ident())  # noqa: E731
        self.store.pool = PoolState(limits or SchedulingLimits())
        self.pool = Pool(self.store, Process, read_memory, lambda: None, self.needs, note)
        self.pool.start()

    def needs(self, model: Model) -> PlacementRequest:
        self.asked.append(model.name)
        if model.name == "bad":
            raise InvalidModelFile(model.name, "its header ends too early")
        return asked_for(3 * GIB)

    def acquire(self, model: Model) -> None:
        asking = self.pool.acquire(model, 10, Client())  # type: ignore[arg-type]
        asking.wait()
        asking.end(ev.Ending.COMPLETE)


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
    asking = case.pool.acquire(a_model("a"), 10, Client())  # type: ignore[arg-type]
    asking.wait()
    waiting = Decision(Outcome.WAIT, "waiting for a to become idle", 3 * GIB)
    for number in range(3):
        for name in ("b", "c"):  # both wait, and are looked at by turns
            case.pool._explain(Decided(name, waiting, ("a",)), case.store.pool, float(number), 0.1)
    assert [each.model for each in case.store.decisions] == ["a", "b", "c"]
    case.pool._explain(Decided("b", replace(waiting, outcome=Outcome.PLACE), ()), case.store.pool, 9.0, 0.1)
    assert len(case.store.decisions) == 4
    asking.end(ev.Ending.COMPLETE)


def test_a_request_for_a_loaded_model_changes_no_thread():
    case = Case()
    case.acquire(a_model())
    case.stepped_on.clear()
    case.acquire(a_model())
    assert case.stepped_on == [threading.get_ident()] * 2, "the slot, and its return"


def test_what_many_threads_tell_at_once_is_all_worked_off_one_at_a_time():
    case = Case()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: case.acquire(a_model("abc"[number % 3], slots=4)), range(600)))
    assert len(case.store.pool.servers) == 3
    assert not case.store.pool.waiting
    assert not any(server.leases for server in case.store.pool.servers)
    assert case.pool._inbox.empty()


def test_the_clock_looks_earlier_when_something_is_due_earlier():
    """It sleeps for as long as nothing is due; a server that goes idle meanwhile must not wait for it."""
    case = Case(SchedulingLimits(ttl_seconds=0.2))
    time.sleep(0.1)  # it sleeps
    case.acquire(a_model())
    assert case.pool.wait_until(lambda state: not state.servers, 10)


def test_a_fact_that_cannot_be_worked_off_is_dropped_alone(caplog: pytest.LogCaptureFixture):
    case = Case()
    case.pool.post(ev.Exited(99, "", 0.0))
    assert "event dropped" in caplog.text
    case.acquire(a_model())


def test_what_is_told_just_before_a_turn_ends_is_not_left_lying(monkeypatch: pytest.MonkeyPatch):
    """The turn was taken when it came, and who had it had looked into the inbox for the last time."""
    case, late = Case(), [ev.Tick(0.0)]
    work_off = case.pool._work_off

    def work_off_then_somebody_tells() -> None:
        work_off()
        if late:
            other = threading.Thread(target=case.pool.post, args=(late.pop(),))
            other.start()
            other.join()

    monkeypatch.setattr(case.pool, "_work_off", work_off_then_somebody_tells)
    case.pool.post(ev.Tick(0.0))
    assert len(case.stepped_on) == 2


def test_what_is_due_while_somebody_is_slow_comes_a_few_times_only(monkeypatch: pytest.MonkeyPatch):
    """The clock has no other way than to tell again and again, and each time is a step for who has the turn."""
    case = Case()
    model = replace(a_model("a"), launch=a_launch(parallel=1))
    case.acquire(model)
    held = case.pool.acquire(model, 10, Client())  # type: ignore[arg-type]
    held.wait()
    monkeypatch.setattr(case.pool, "_spawn", lambda server, post: time.sleep(0.5) or Process(server, post))
    waiting = case.pool.acquire(model, 0.1, Client())  # type: ignore[arg-type]
    case.stepped_on.clear()
    case.acquire(a_model("b"))
    with pytest.raises(WaitTimeout):
        waiting.wait()
    assert len(case.stepped_on) < 200
    held.end(ev.Ending.COMPLETE)
