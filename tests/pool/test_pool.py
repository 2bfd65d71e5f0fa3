"""The pool: what runs on the request's own thread, what is rejected before it waits, and who processes the inbox."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.entities.memory import MemoryReading
from app.entities.model import Model
from app.entities.placement import Decision, Outcome
from app.entities.refusal import Reason, Refusal
from app.entities.server import Server
from app.errors import InvalidModelFile, WaitTimeout
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import Decided
from app.use_cases.scheduling.limits import SchedulingLimits
from app.use_cases.scheduling.pool_state import Awaited, PoolState, Waiter
from app.use_cases.scheduling.schedule import step
from tests.helpers.builders import GIB, a_launch, a_model, a_placement_request, replace
from workers.pool.decision_log import record_decision
from workers.pool.pool import Pool
from workers.pool.reconfiguration import completed, reconfigured
from workers.telemetry.store import StateStore


class Process:
    """Ready as soon as it is started, ended as soon as it is stopped."""

    api_key = "key"

    def __init__(self, server: Server, post: Callable[[ev.Event], None]) -> None:
        self.server, self.post = server, post
        post(ev.Ready(server.id, 9000, time.monotonic()))

    def stop(self, saves: bool = False) -> None:
        self.post(ev.Exited(self.server.id, "", time.monotonic()))

    def check(self, counts_slots: bool) -> None: ...
    def kill(self) -> None: ...


class Client:
    def on_disconnect(self, callback: Callable[[], None] | None) -> None: ...
    def begin(self) -> None: ...


def read_memory(pids: Mapping[int, int]) -> MemoryReading:
    return MemoryReading(16 * GIB, 16 * GIB, time.monotonic())


class Case:
    def __init__(self, limits: SchedulingLimits | None = None) -> None:
        self.estimated: list[str] = []
        self.definitions: dict[str, Model] = {}  # the catalogue
        self.store = StateStore(PoolState())
        self.step_threads: list[int] = []
        on_step = lambda before, event, effects: self.step_threads.append(threading.get_ident())  # noqa: E731
        self.store.pool = PoolState(limits or SchedulingLimits())
        about_models = self.placement_request, self.definitions.get
        self.pool = Pool(self.store, Process, read_memory, lambda: None, *about_models, on_step)
        self.pool.start()

    def placement_request(self, model: Model) -> PlacementRequest:
        self.estimated.append(model.name)
        if model.name == "bad":
            raise InvalidModelFile(model.name, "its header ends too early")
        return a_placement_request(3 * GIB)

    def acquire(self, model: Model) -> None:
        self.definitions[model.name] = model
        lease = self.pool.acquire(model, 10, Client())  # type: ignore[arg-type]
        lease.wait()
        lease.end(ev.Ending.COMPLETE)


def test_a_server_is_booked_with_what_its_model_needs():
    case = Case()
    case.acquire(a_model())
    assert [server.expected_bytes for server in case.store.pool.servers] == [3 * GIB]


def test_a_loaded_model_is_not_estimated_again():
    case = Case()
    for _ in range(3):
        case.acquire(a_model())
    case.pool.load(a_model(), 10, Client())  # type: ignore[arg-type]
    assert case.estimated == ["a"]
    case.acquire(replace(a_model(), created=2))
    assert case.estimated == ["a", "a"], "its file has changed"


def test_an_engine_is_read_while_it_responds_and_reading_is_no_use_of_it():
    case = Case()
    for name in ("a", "b"):
        case.acquire(a_model(name))
    before = case.store.pool
    found = [(each.server, each.model, each.api_key) for each in case.pool.addresses()]
    assert found == [
        (1, "a", "key"),
        (2, "b", "key"),
    ]
    assert case.store.pool is before
    hung, other = before.servers
    case.store.pool = replace(before, servers=(replace(hung, unresponsive_since=1.0), other))
    assert [each.model for each in case.pool.addresses()] == ["b"]


def test_a_model_that_cannot_be_served_is_rejected_before_it_waits():
    case = Case()
    for ask in (case.acquire, lambda model: case.pool.load(model, 10, Client())):
        with pytest.raises(InvalidModelFile):
            ask(a_model("bad"))
    assert case.store.pool == PoolState()


def test_a_load_that_keeps_waiting_is_one_decision_record():
    """It is decided again with each reading; two hundred of those would displace all earlier decisions."""
    case = Case()
    case.acquire(a_model("a"))
    lease = case.pool.acquire(a_model("a"), 10, Client())  # type: ignore[arg-type]
    lease.wait()
    waiting = Decision(Outcome.WAIT, "waiting for a to become idle", 3 * GIB)
    for number in range(3):
        for name in ("b", "c"):  # both wait, and are decided alternately
            record_decision(case.store, Decided(name, waiting, ("a",)), case.store.pool, float(number), 0.1)
    assert [each.model for each in case.store.decisions] == ["a", "b", "c"]
    record_decision(case.store, Decided("b", replace(waiting, outcome=Outcome.PLACE), ()), case.store.pool, 9.0, 0.1)
    assert len(case.store.decisions) == 4
    lease.end(ev.Ending.COMPLETE)


@pytest.mark.parametrize("loaded", [True, False])
def test_a_request_that_a_reload_overtook_gets_the_new_definition(loaded: bool):
    """It had looked its model up before. Its old definition was started, and the new server drained for it."""
    case, old, new = Case(), a_model(), replace(a_model(), launch=a_launch(ctx_size=9000))
    if loaded:
        case.acquire(new)
    case.definitions["a"] = new
    for ask in (case.pool.acquire, case.pool.load):
        ask(old, 10, Client())  # type: ignore[operator]
    case.pool.acquire(replace(old, ttl_seconds=5.0), 10, Client()).wait()  # type: ignore[arg-type]
    assert [(server.model, server.is_terminating) for server in case.store.pool.servers] == [(new, False)]


def test_a_request_whose_model_a_reload_removed_starts_nothing():
    case = Case()
    for name in ("a", "bad"):
        case.definitions[name] = replace(a_model("bad"), created=2)
    del case.definitions["a"]
    for old in (a_model("a"), a_model("bad")):
        command = ev.Acquire(99, old, 0.0, 10.0, a_placement_request(3 * GIB))
        answer = case.pool._submit(command, Client())  # type: ignore[arg-type]
        assert answer.result(5) == Refusal(Reason.UNLOADED, old.name)
    assert not case.store.pool.servers


def test_a_reload_has_what_a_request_needs_that_began_to_wait_meanwhile():
    """It was rejected: the event had been made from a state without it."""
    old, new = a_model(), replace(a_model(), created=2)
    waiter = Waiter(1, old, 0.0, math.inf, Awaited.SLOT, a_placement_request(GIB))
    event = reconfigured(PoolState(), SchedulingLimits(), {"a": new}, lambda model: pytest.fail("nothing waits"))
    wanted = a_placement_request(2 * GIB)
    event = completed(event, PoolState(waiting=(waiter,)), lambda model: wanted)
    assert event.placement_requests == {"a": wanted}
    state, _ = step(PoolState(waiting=(waiter,)), event)
    assert [(each.model, each.placement_request) for each in state.waiting] == [(new, wanted)]


def test_a_request_for_a_loaded_model_changes_no_thread():
    case = Case()
    case.acquire(a_model())
    case.step_threads.clear()
    case.acquire(a_model())
    assert case.step_threads == [threading.get_ident()] * 2, "acquire and release"


def test_events_that_many_threads_post_at_once_are_processed_one_at_a_time():
    case = Case()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: case.acquire(a_model("abc"[number % 3], slots=4)), range(600)))
    assert len(case.store.pool.servers) == 3
    assert not case.store.pool.waiting
    assert not any(server.leases for server in case.store.pool.servers)
    assert case.pool._inbox.empty()


def test_the_clock_wakes_earlier_when_something_is_due_earlier():
    """It sleeps while nothing is due; the ttl of a server that becomes idle meanwhile must not wait for it."""
    case = Case(SchedulingLimits(ttl_seconds=0.2))
    time.sleep(0.1)  # it sleeps
    case.acquire(a_model())
    assert case.pool.wait_until(lambda state: not state.servers, 10)


def test_an_event_that_cannot_be_processed_is_dropped_alone(caplog: pytest.LogCaptureFixture):
    case = Case()
    case.pool.post(ev.Exited(99, "", 0.0))
    assert "event dropped" in caplog.text
    case.acquire(a_model())


def test_an_event_posted_just_before_the_lock_is_released_is_processed(monkeypatch: pytest.MonkeyPatch):
    """It found the lock taken, and the lock holder had checked the inbox for the last time."""
    case, late = Case(), [ev.Tick(0.0)]
    process_inbox = case.pool._process_inbox

    def process_inbox_then_another_thread_posts() -> None:
        process_inbox()
        if late:
            other = threading.Thread(target=case.pool.post, args=(late.pop(),))
            other.start()
            other.join()

    monkeypatch.setattr(case.pool, "_process_inbox", process_inbox_then_another_thread_posts)
    case.pool.post(ev.Tick(0.0))
    assert len(case.step_threads) == 2


def test_the_clock_posts_few_ticks_while_the_lock_holder_is_slow(monkeypatch: pytest.MonkeyPatch):
    """What is due stays due until the lock holder processes a tick, and each further tick costs it a step."""
    case = Case()
    model = replace(a_model("a"), launch=a_launch(parallel=1))
    case.acquire(model)
    held = case.pool.acquire(model, 10, Client())  # type: ignore[arg-type]
    held.wait()
    monkeypatch.setattr(case.pool._processes, "_spawn", lambda server, post: time.sleep(0.5) or Process(server, post))
    waiting = case.pool.acquire(model, 0.1, Client())  # type: ignore[arg-type]
    case.step_threads.clear()
    case.acquire(a_model("b"))
    with pytest.raises(WaitTimeout):
        waiting.wait()
    assert len(case.step_threads) < 200
    held.end(ev.Ending.COMPLETE)
