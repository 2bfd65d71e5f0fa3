"""Pool: the scheduler's state at work, and the requests' door to it.

Any thread may tell it a fact. One at a time has the turn: it calls `step`, publishes the new state and carries out the
effects, its own fact's and those of all who came meanwhile. So a request whose model is loaded changes no thread.
"""

from __future__ import annotations

import itertools
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol

from app.entities.memory import MemoryReading
from app.entities.model import Model
from app.entities.refusal import Reason, Refusal
from app.entities.server import Server
from app.errors import ContextLengthExceeded, error_for
from app.ports import Address, Lease, WatchedClient
from app.use_cases.placement.contexts import max_request_tokens
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.reporting.decisions import MAX_RECORDS, DecisionRecord
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import (
    CountSlots,
    Decided,
    Done,
    Effect,
    Grant,
    ReadGpus,
    ReadMemory,
    Refuse,
    Spawn,
    Stop,
)
from app.use_cases.scheduling.pool_state import PoolState
from app.use_cases.scheduling.schedule import due_at, step
from workers.telemetry.store import StateStore

log = logging.getLogger(__name__)

LONGEST_NAP_SECONDS = 60.0
LOGGED_CHARACTERS = 300  # of a reason: the last ones say most
PAUSE_AFTER_A_BUG_SECONDS = 0.1  # what is overdue would come again at once
SLOW_TURN_SECONDS = 0.01  # between two ticks that nobody has worked off


NOWHERE = 0  # the port of a server that is gone: nothing listens there


class Process(Protocol):
    """What the pool wants of a running llama-server (workers/server/llama_server.py; a scripted one in tests)."""

    @property
    def api_key(self) -> str: ...
    def stop(self, saves: bool = False) -> None: ...
    def count_slots(self) -> None: ...
    def kill(self) -> None: ...


class Pool:
    """Owner of the llama-servers. `spawn` starts one and reports through `post`; `read_memory` reads the machine,
    given the pids by server; `read_gpus` asks for a GpusPolled; `request` makes a model's PlacementRequest, or raises
    the ProxyError that forbids it; `count` is called with every step, `forget` with the port of each server that has
    ended."""

    def __init__(
        self,
        store: StateStore,
        spawn: Callable[[Server, Callable[[ev.Event], None]], Process],
        read_memory: Callable[[Mapping[int, int]], MemoryReading],
        read_gpus: Callable[[], None],
        request: Callable[[Model], PlacementRequest],
        count: Callable[[PoolState, ev.Event, Sequence[Effect]], None] = lambda before, event, effects: None,
        forget: Callable[[int], None] = lambda port: None,
    ) -> None:
        self._store = store
        self._spawn = spawn
        self._read_memory = read_memory
        self._read_gpus = read_gpus
        self._request_for_model = request
        self._count = count
        self._forget = forget
        self._inbox: queue.SimpleQueue[ev.Event] = queue.SimpleQueue()  # any thread may put, also a signal handler
        self._tickets = itertools.count(1)
        self._answers: dict[
            int, Future[int | Refusal | None]
        ] = {}  # put by a request's thread, taken by who has the turn
        self._processes: dict[int, Process] = {}  # by server id; written by who has the turn
        self._turn = threading.Lock()  # to work off the inbox; never waited for
        self._changed = threading.Condition()  # notified after a step, for those who wait for an end
        self._watching = 0  # how many do; under the condition's lock
        self._clock = threading.Thread(target=self._watch_the_clock, name="pool-clock", daemon=True)
        self._awake_at = -math.inf  # when the clock's thread looks next, if it is not called
        self._call = threading.Event()  # something is due before that

    # --- for any thread ---------------------------------------------------------------------------

    def start(self) -> None:
        self._clock.start()

    def post(self, event: ev.Event) -> None:
        """Let the scheduler know a fact. When this returns it knows it, or another thread is about to tell it."""
        self._inbox.put(event)
        # Looked at again after the turn: what came just before its end found it taken.
        while not self._inbox.empty() and self._turn.acquire(blocking=False):
            try:
                self._work_off()
            finally:
                self._turn.release()

    def acquire(
        self,
        model: Model,
        max_wait_seconds: float,
        client: WatchedClient,
        context_tokens: int | None = None,
        conversation: int | None = None,
    ) -> PendingLease:
        """Ask for a slot of one of the model's servers, which is loaded if need be; of several, the one that this
        conversation was with before, if it has a slot. End what you get.

        Raises the ProxyError that forbids it before anybody waits: ContextLengthExceeded where more `context_tokens`
        are wanted than the model is ever loaded with.
        """
        now, request = time.monotonic(), self._placement_request(model)
        if context_tokens is not None and 0 < (most := max_request_tokens(request)) < context_tokens:
            raise ContextLengthExceeded(model.name, context_tokens, most, is_loaded=False)
        command = ev.Acquire(next(self._tickets), model, now, now + max_wait_seconds, request, conversation)
        return PendingLease(self, command, self._told(command, client), client)

    def load(self, model: Model, max_wait_seconds: float, client: WatchedClient) -> None:
        """Load the model; returns as soon as its llama-server is starting. Raises as `PendingLease.wait` does."""
        now, request = time.monotonic(), self._placement_request(model)
        log.info("load ordered model=%s", model.name)
        self._wait(ev.Load(next(self._tickets), model, now, now + max_wait_seconds, request), client)

    def unload(self, model: Model, max_wait_seconds: float, client: WatchedClient) -> None:
        """Have the model unloaded once it has answered what it is answering; returns when its processes are gone.

        Raises as `PendingLease.wait` does; it goes all the same when the caller does not wait for it.
        """
        now = time.monotonic()
        log.info("unload ordered model=%s", model.name)
        self._wait(ev.Unload(next(self._tickets), model, now, now + max_wait_seconds), client)

    def address(self, model: Model) -> Address | None:
        """Where a llama-server of the model answers right now; None when it is not loaded. Loads and holds nothing."""
        server = self._store.pool.server_of(model.name)
        return self._address(server) if server and server.is_up else None

    def _placement_request(self, model: Model) -> PlacementRequest:
        """For a model that is there, or on its way, as it was: nothing is read for it again."""
        return self._store.pool.placement_request_of(model) or self._request_for_model(model)

    def _wait(self, command: ev.Command, client: WatchedClient) -> None:
        _outcome(self._told(command, client), client)

    def _told(self, command: ev.Command, client: WatchedClient) -> Future[int | Refusal | None]:
        """The scheduler's answer to a wish, which may be there already: a server's id for a slot of it."""
        answer: Future[int | Refusal | None] = Future()
        self._answers[command.ticket] = answer
        self.post(command)
        if not answer.done():
            client.on_disconnect(lambda: self.post(ev.Cancel(command.ticket, time.monotonic())))
            client.begin()
        return answer

    def address_of(self, server_id: int, model: str) -> Address:
        """Of a server that a slot was granted of. It may have died in this very moment: nobody is found there then."""
        return self._address(self._store.pool.server(server_id)) or Address(server_id, model, NOWHERE, "")

    def _address(self, server: Server | None) -> Address | None:
        process = self._processes.get(server.id) if server else None
        if server is None or process is None or server.port is None:
            return None
        launch, placement = server.model.launch, server.placement
        tokens = placement.ctx_size // (1 if launch.options.kv_unified else launch.options.parallel)
        return Address(server.id, server.model.name, server.port, process.api_key, tokens, placement.device)

    def wait_until(self, condition: Callable[[PoolState], bool], timeout: float) -> bool:
        """Wait until the published state meets `condition`. False when it did not in time."""
        with self._changed:
            self._watching += 1
            try:
                return self._changed.wait_for(lambda: condition(self._store.pool), timeout)
            finally:
                self._watching -= 1

    def kill(self) -> None:
        """End every llama-server this instant. For the end of the process only: the state is not told."""
        for process in list(self._processes.values()):
            process.kill()

    # --- the clock's thread ---------------------------------------------------------------------------

    def _watch_the_clock(self) -> None:
        """Tell when something is due by time alone."""
        while True:
            self._call.clear()
            self._awake_at = math.inf  # whoever makes something due from here on calls
            due = due_at(self._store.pool)
            self._awake_at = math.inf if due is None else due
            if self._call.wait(min(self._awake_at - time.monotonic(), LONGEST_NAP_SECONDS)):
                continue
            self.post(ev.Tick(time.monotonic()))
            if not self._inbox.empty():  # who has the turn is starting a server, say: it stays due all the while
                time.sleep(SLOW_TURN_SECONDS)

    # --- who has the turn -----------------------------------------------------------------------------

    def _work_off(self) -> None:
        while not self._inbox.empty():
            event = self._inbox.get()
            try:
                self._happen(event)
            except Exception:
                # A bug. The state before it is sound; the one request it was about must not wait for ever.
                log.exception("event dropped: %r", event)
                if isinstance(event, ev.Command) and (answer := self._answers.pop(event.ticket, None)):
                    answer.set_result(Refusal(Reason.SPAWN_FAILED, event.model.name, "internal error"))
                time.sleep(PAUSE_AFTER_A_BUG_SECONDS)
        due = due_at(self._store.pool)
        if due is not None and due < self._awake_at:
            self._call.set()

    def _happen(self, event: ev.Event) -> None:
        began = time.perf_counter()
        before = self._store.pool
        state, effects = step(before, event)
        step_ms = 1000 * (time.perf_counter() - began)
        self._publish(state)
        for effect in effects:
            if isinstance(effect, Decided):
                self._explain(effect, state, event.at, step_ms)
            else:
                self._carried_out(effect)
        if isinstance(event, ev.Exited):
            self._processes.pop(event.server, None)
            if (ended := before.server(event.server)) and ended.port is not None:
                self._forget(ended.port)
        self._count(before, event, effects)

    def _carried_out(self, effect: Effect) -> None:
        """One that fails takes none of the others with it: they are other requests' answers."""
        try:
            self._carry_out(effect)
        except Exception:
            log.exception("order not carried out: %r", effect)

    def _explain(self, decided: Decided, state: PoolState, now: float, step_ms: float) -> None:
        decision, kept = decided.decision, self._store.decisions[-MAX_RECORDS:]
        age = max(0.0, now - state.gpus.at) if state.gpus.poll_seconds is not None else 0.0
        explained = DecisionRecord(time.time(), decided.model, decision, decided.evict, step_ms, age)
        others = tuple(each for each in kept if not explained.repeats(each))
        if len(others) < len(kept):  # several loads may wait, each looked at again and again: they would push out all
            kept = others
        else:
            log.info(
                "decided model=%s outcome=%s ms=%.1f %s", decided.model, decision.outcome, step_ms, decision.reason
            )
        self._store.decisions = (*kept[-MAX_RECORDS + 1 :], explained)

    def _publish(self, state: PoolState) -> None:
        self._store.pool = state
        if self._watching:  # who comes after this look sees the new state
            with self._changed:
                self._changed.notify_all()

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Grant(ticket, server):
                self._answers.pop(ticket).set_result(server)
            case Done(ticket):
                self._answers.pop(ticket).set_result(None)
            case Refuse(ticket, refusal):
                log.info(
                    "refuse ticket=%d model=%s reason=%s detail=%r",
                    *(ticket, refusal.model, refusal.reason, refusal.detail[-LOGGED_CHARACTERS:]),
                )
                self._answers.pop(ticket).set_result(refusal)
            case Spawn(server):
                log.info(
                    "spawn server=%d model=%s device=%s book_mib=%d confidence=%s",
                    *(server.id, server.model.name, server.placement.device, server.expected_bytes >> 20),
                    server.placement.estimate.confidence,
                )
                self._start(server)
            case Stop(server_id, why, detail):
                log.info("stop server=%d why=%s%s", server_id, why, f" {detail}" if detail else "")
                if process := self._processes.get(server_id):
                    process.stop(why.allows_cache_save)
            case CountSlots(server_id):
                if process := self._processes.get(server_id):
                    process.count_slots()
            case ReadMemory():
                self._read()
            case ReadGpus():
                self._read_gpus()

    def _start(self, server: Server) -> None:
        try:
            self._processes[server.id] = self._spawn(server, self.post)
        except Exception as error:  # no file descriptor, no thread left; or a bug, and the server would start for ever
            self.post(ev.Exited(server.id, str(error), time.monotonic(), could_not_spawn=True))

    def _read(self) -> None:
        pids = {server.id: server.pid for server in self._store.pool.servers if server.pid is not None}
        try:
            memory = self._read_memory(pids)
        except OSError as error:
            self.post(ev.MemoryReadFailed(f"the machine's memory could not be read: {error}", time.monotonic()))
        else:
            self.post(ev.MemoryRead(memory, time.monotonic()))


def _outcome(answer: Future[int | Refusal | None], client: WatchedClient, seconds: float | None = None) -> int | None:
    """What the scheduler answers. Raises the ProxyError that a refusal is; TimeoutError after so many seconds."""
    outcome = answer.result(seconds)
    client.on_disconnect(None)
    if isinstance(outcome, Refusal):
        raise error_for(outcome)
    return outcome


class PendingLease:
    """One request's place in the queue, and then its slot."""

    def __init__(
        self, pool: Pool, command: ev.Acquire, answer: Future[int | Refusal | None], client: WatchedClient
    ) -> None:
        self._pool = pool
        self._command = command
        self._answer = answer
        self._client = client

    def wait(self, seconds: float | None = None) -> Lease | None:
        """The slot; None if it is not there within so long. Raises the ProxyError that says why there is none;
        ClientDisconnected as soon as the client goes."""
        try:
            outcome = _outcome(self._answer, self._client, seconds)
        except TimeoutError:
            return None
        assert outcome is not None, "a slot was asked for"
        address = self._pool.address_of(outcome, self._command.model.name)
        return Lease(address, time.monotonic() - self._command.at)

    def end(self, ending: ev.Ending, keep_alive_seconds: float | None = None) -> None:
        """Give back what it has, once: how much of its answer the request got, and how long its model is to stay."""
        if not self._answer.done():
            self._pool.post(ev.Cancel(self._command.ticket, time.monotonic()))
        if isinstance(self._answer.result(), int):
            self._pool.post(ev.Release(self._command.ticket, time.monotonic(), ending, keep_alive_seconds))
