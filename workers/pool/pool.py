"""Pool: runs the scheduler, carries out its effects, and publishes its state.

Any thread may post an event to the inbox. One thread at a time holds the pool lock: it calls `step` for each event in
the inbox, publishes the new state and carries out the effects, also those of events that other threads post meanwhile.
Nobody waits for the lock. So a request whose model is loaded gets and releases its slot without a change of threads,
which costs three times as much as the step itself.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from math import inf

from app.entities.memory import MemoryReading
from app.entities.model import Model
from app.entities.refusal import Reason, Refusal
from app.errors import ContextLengthExceeded
from app.ports import Address, WatchedClient
from app.use_cases.placement.contexts import max_request_tokens
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.scheduling import effects as fx
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.limits import SchedulingLimits
from app.use_cases.scheduling.pool_state import PoolState
from app.use_cases.scheduling.schedule import due_at, step
from workers.pool.availability import in_order_of_availability
from workers.pool.clock import Clock
from workers.pool.decision_log import log_isolation, record_decision
from workers.pool.effect_runner import EffectRunner
from workers.pool.pending_lease import Answer, PendingLease, outcome_of
from workers.pool.processes import Processes, Spawn
from workers.pool.reconfiguration import completed, reconfigured, with_current_model
from workers.telemetry.store import StateStore

log = logging.getLogger(__name__)

RESPONSE_POLL_SECONDS = 0.05
PAUSE_AFTER_BUG_SECONDS = 0.1  # what is overdue would be due again at once
NO_PORT = 0  # of a server that has ended: nothing listens there


class Pool:
    """Owner of the llama-servers.

    `spawn` starts one, which reports through `post`; `read_memory` reads RAM, given the pids by server id; `read_gpus`
    requests a GpusPolled, `probe_engine` one after a new probe of the engine; `placement_request` makes that of a
    model, or raises the ProxyError of one that cannot be served; `definition` is the model that a name means now, or
    None; `on_step` is called with the state before, the event and the effects of every step, `on_server_ended` with
    the port of each server that has ended.
    """

    def __init__(
        self,
        store: StateStore,
        spawn: Spawn,
        read_memory: Callable[[Mapping[int, int]], MemoryReading],
        read_gpus: Callable[[], None],
        placement_request: Callable[[Model], PlacementRequest],
        definition: Callable[[str], Model | None],
        on_step: Callable[[PoolState, ev.Event, Sequence[fx.Effect]], None] = lambda before, event, effects: None,
        on_server_ended: Callable[[int], None] = lambda port: None,
        probe_engine: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._make_placement_request = placement_request
        self._definition = definition
        self._on_step = on_step
        self._on_server_ended = on_server_ended
        self._inbox: queue.SimpleQueue[ev.Event] = queue.SimpleQueue()  # any thread may put, even a signal handler
        self._tickets = itertools.count(1)
        self._answers: dict[int, Answer] = {}  # added by a request's thread, removed by the lock holder
        self._processes = Processes(spawn, self.post)
        readings = read_memory, read_gpus, probe_engine
        self._effects = EffectRunner(store, self._answers, self._processes, *readings, self.post)
        self._lock = threading.Lock()  # for the processing of the inbox; never waited for
        self._changed = threading.Condition()  # notified after a step, for `wait_until`
        self._watchers = 0  # threads in `wait_until`; under the condition's lock
        self._clock = Clock(lambda: due_at(self._store.pool), self._tick)

    # --- for any thread ---------------------------------------------------------------------------

    def start(self) -> None:
        self._clock.start()

    def post(self, event: ev.Event) -> None:
        """Give the scheduler an event. On return it is processed, or another thread is about to process it."""
        self._inbox.put(event)
        # The inbox is checked again after the lock is released: an event posted just before found the lock taken.
        while not self._inbox.empty() and self._lock.acquire(blocking=False):
            try:
                self._process_inbox()
            finally:
                self._lock.release()

    def is_responsive(self, seconds: float) -> bool:
        """Whether an event that is posted now is processed within so many seconds."""
        deadline = time.monotonic() + seconds
        self.post(ev.Tick(time.monotonic()))  # if the lock holder is stuck, it stays in the inbox
        while not self._inbox.empty():
            if time.monotonic() >= deadline:
                return False
            time.sleep(min(RESPONSE_POLL_SECONDS, seconds))
        return True

    def acquire(
        self,
        model: Model,
        max_wait_seconds: float,
        client: WatchedClient,
        context_tokens: int | None = None,
        conversation: int | None = None,
        key: str = "",
        request_hash: str = "",
        may_load: bool = True,
    ) -> PendingLease:
        """Request a slot of one of the model's servers, preferably of the one that this conversation used last, and
        load the model if necessary and it `may_load`. The caller must `end` the result.

        Raises the ProxyError that makes waiting pointless: ContextLengthExceeded if the model is never loaded with so
        many `context_tokens`.
        """
        now, request = time.monotonic(), self._placement_request(model)
        if context_tokens is not None and 0 < (most := max_request_tokens(request)) < context_tokens:
            raise ContextLengthExceeded(model.name, context_tokens, most, is_loaded=False)
        about = request, conversation, key, request_hash, may_load
        command = ev.Acquire(next(self._tickets), model, now, now + max_wait_seconds, *about)
        return PendingLease(command, self._submit(command, client), client, self.post, self._address_of)

    def load(self, model: Model, max_wait_seconds: float, client: WatchedClient) -> None:
        """Load the model; returns as soon as its llama-server is starting. Raises as `PendingLease.wait` does."""
        now, request = time.monotonic(), self._placement_request(model)
        log.info("load ordered model=%s", model.name)
        command = ev.Load(next(self._tickets), model, now, now + max_wait_seconds, request)
        outcome_of(self._submit(command, client), client)

    def unload(self, model: Model, max_wait_seconds: float, client: WatchedClient, grace_seconds: float = inf) -> None:
        """Unload the model after its running requests, or kill it after `grace_seconds`; returns once it has ended.

        Raises as `PendingLease.wait` does; the model is unloaded even if the caller stops waiting.
        """
        now = time.monotonic()
        log.info("unload ordered model=%s grace_seconds=%g", model.name, grace_seconds)
        command = ev.Unload(next(self._tickets), model, now, now + max_wait_seconds, now + grace_seconds)
        outcome_of(self._submit(command, client), client)

    def reconfigure(self, limits: SchedulingLimits, models: Mapping[str, Model]) -> None:
        """Apply a reloaded configuration. `models`: the whole catalogue by name."""
        self.post(reconfigured(self._store.pool, limits, models, self._make_placement_request))

    def by_availability(self, models: Sequence[Model]) -> list[Model]:
        """The models of a virtual name, the one that should answer first."""
        return in_order_of_availability(self._store.pool, models, self._placement_request)

    def address(self, model: Model) -> Address | None:
        """Where a llama-server of the model answers now; None if it is not loaded. Loads nothing and takes no slot."""
        server = self._store.pool.server_of(model.name)
        return self._processes.address(server) if server and server.is_up else None

    def addresses(self) -> list[Address]:
        """Where the llama-servers that respond answer now. Takes no slot."""
        return self._processes.addresses(self._store.pool.servers)

    def wait_until(self, condition: Callable[[PoolState], bool], timeout: float) -> bool:
        """Wait until the published state meets `condition`; False if it did not within `timeout` seconds."""
        with self._changed:
            self._watchers += 1
            try:
                return self._changed.wait_for(lambda: condition(self._store.pool), timeout)
            finally:
                self._watchers -= 1

    def kill(self) -> None:
        """Kill every llama-server at once. Only for the end of this process: the state does not change."""
        self._processes.kill()

    def _placement_request(self, model: Model) -> PlacementRequest:
        """That of a server which is loaded or loading, if there is one: no file is read for it again."""
        return self._store.pool.placement_request_of(model) or self._make_placement_request(model)

    def _submit(self, command: ev.Command, client: WatchedClient) -> Answer:
        """The scheduler's answer to a command, which may be there already. The client is watched while it is not."""
        answer = self._answers[command.ticket] = Answer()
        self.post(command)
        if not answer.done():
            client.on_disconnect(lambda: self.post(ev.Cancel(command.ticket, time.monotonic())))
            client.begin()
        return answer

    def _address_of(self, server_id: int, model: str) -> Address:
        """Where a server answers whose slot was granted; nobody answers there if it has ended since."""
        return self._processes.address(self._store.pool.server(server_id)) or Address(server_id, model, NO_PORT, "")

    def _tick(self) -> bool:
        """For the clock: False if the event is still in the inbox."""
        self.post(ev.Tick(time.monotonic()))
        return self._inbox.empty()

    # --- for the lock holder ----------------------------------------------------------------------

    def _process_inbox(self) -> None:
        while not self._inbox.empty():
            event = self._inbox.get()
            try:
                if (current := self._with_current_models(event)) is not None:
                    self._process(current)
            except Exception:
                # A bug. The state before the event is sound; the one request it was about must not wait for ever.
                log.exception("event dropped: %r", event)
                if isinstance(event, ev.Command) and (answer := self._answers.pop(event.ticket, None)):
                    answer.set_result(Refusal(Reason.SPAWN_FAILED, event.model.name, "internal error"))
                time.sleep(PAUSE_AFTER_BUG_SECONDS)
        self._clock.update(due_at(self._store.pool))

    def _with_current_models(self, event: ev.Event) -> ev.Event | None:
        """The event, about models as they are defined now; None if it is answered. Reads a header only for a request
        that was overtaken by a reload."""
        if isinstance(event, ev.Reconfigured):
            return completed(event, self._store.pool, self._make_placement_request)
        if not isinstance(event, ev.Acquire | ev.Load):
            return event
        current = with_current_model(event, self._definition(event.model.name), self._placement_request)
        if isinstance(current, Refusal):
            self._effects.reject(event.ticket, current)
            return None
        return current

    def _process(self, event: ev.Event) -> None:
        began, before = time.perf_counter(), self._store.pool
        state, effects = step(before, event)
        step_ms = 1000 * (time.perf_counter() - began)
        self._publish(state)
        for effect in effects:
            if isinstance(effect, fx.Decided):
                record_decision(self._store, effect, state, event.at, step_ms)
            else:
                self._effects.run(effect)
        if isinstance(event, ev.Exited):
            self._processes.remove(event.server)
            if (ended := before.server(event.server)) and ended.port is not None:
                self._on_server_ended(ended.port)
        log_isolation(before, state)
        self._on_step(before, event, effects)

    def _publish(self, state: PoolState) -> None:
        self._store.pool = state
        if self._watchers:  # a thread that begins to wait after this line sees the new state
            with self._changed:
                self._changed.notify_all()
