"""Plans: what would be decided about each model now, remembered as long as nothing has changed that matters.

A plan costs milliseconds under Python's lock, and a catalogue may have thousands of models. Those that have none get
theirs at the first call, for FIRST_SECONDS at most. When the machine has changed, they are renewed by later calls, with
a share of the CPU that cannot disturb answers; until then the earlier ones stand.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.entities.gpu import GpuState
from app.entities.memory import MemoryReading
from app.entities.model import Model
from app.entities.placement import Decision, Outcome
from app.entities.refusal import Reason, Refusal
from app.errors import InvalidRequest, Overloaded, ProxyError
from app.ports import PlanAnswer
from app.use_cases.launch.typed_options import ConflictingOptions, with_typed_devices
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.placement.world import World
from app.use_cases.reporting.plans import Plan, machine_json, plan_of
from app.use_cases.scheduling.decision_inputs import world_with_eviction_costs
from app.use_cases.scheduling.pool_state import PoolState
from app.use_cases.scheduling.preview import as_last_read, is_alike, preview, preview_refusal
from workers.telemetry.store import StateStore

FIRST_SECONDS = 0.5  # for plans of models that have none
RENEWAL_SHARE = 0.02  # of one CPU core's time
RENEWAL_BURST_SECONDS = 0.25  # of that time saved up: enough for a hundred models
RENEWAL_CALL_SECONDS = 0.05  # of it for one call
READING_SECONDS = 0.5  # for so long one look at the machine serves


@dataclass(frozen=True, slots=True)
class _Machine:
    """What plans depend on, apart from the models."""

    state: PoolState
    world: World
    at: float
    number: int = 0  # counts the machines that plans were made for

    def is_like(self, other: _Machine) -> bool:
        return self._learned == other._learned and is_alike(self.world, other.world)

    @property
    def _learned(self) -> tuple[object, ...]:
        """What is not part of the world."""
        state, gpus = self.state, self.state.gpus.as_of(self.at)
        learned = state.learned_margins, state.runtime_margins, state.card_failures, state.engine_replaced_at
        return gpus.state, gpus.problems, gpus.problem, state.limits, *learned


@dataclass(frozen=True, slots=True)
class _Known:
    plan: Plan
    machine: int  # its number


class Plans:
    """Thread-safe: one thread at a time makes plans, others get what is known."""

    def __init__(
        self,
        store: StateStore,
        placement_request: Callable[[Model], PlacementRequest],
        read_memory: Callable[[Mapping[int, int]], MemoryReading],
    ) -> None:
        """`placement_request` raises the ProxyError of a model that cannot be served."""
        self._store = store
        self._placement_request = placement_request
        self._read_memory = read_memory
        self._lock = threading.Lock()  # guards what follows
        self._known: dict[str, _Known] = {}  # by model name
        self._machine: _Machine | None = None  # that new plans are made for
        self._looked_at = float("-inf")
        self._renewal_seconds = RENEWAL_BURST_SECONDS  # saved up at `_renewed_at`
        self._renewed_at = time.monotonic()

    def of(self, models: Sequence[Model]) -> Mapping[str, Plan]:
        is_complete = all(self._is_known(model) for model in models)
        if self._lock.acquire(timeout=0 if is_complete else FIRST_SECONDS):
            try:
                self._update(models)
            finally:
                self._lock.release()
        return {model.name: self._known[model.name].plan for model in models if self._is_known(model)}

    def plan(self, model: Model, typed: Mapping[str, Any]) -> PlanAnswer:
        request, machine = self._placement_request(model), self._look()
        try:
            options, constraints = with_typed_devices(request.options, request.constraints, typed)
        except ConflictingOptions as error:
            raise InvalidRequest(str(error)) from error
        request = replace(request, options=options, constraints=constraints)
        began = time.perf_counter()
        decision = _decide(model, request, machine)
        elapsed_ms = 1000 * (time.perf_counter() - began)
        evict = plan_of(model, decision, machine.world).evict
        return PlanAnswer(decision, evict, machine_json(machine.world), round(elapsed_ms, 3))

    def plan_of_file(self, model: Model, request: PlacementRequest) -> Plan:
        """The plan of a model that is not in the catalogue. Raises Overloaded."""
        machine = self._look()
        return plan_of(model, _decide(model, request, machine), machine.world)

    def permanent_refusal(self, model: Model, request: PlacementRequest) -> Refusal | None:
        """Why a model that is not in the catalogue can never be loaded on this machine; None if it can, or if that is
        not certain. Raises Overloaded."""
        machine = self._look()
        decision = _decide(model, request, machine)
        if decision.outcome is not Outcome.REFUSE or not decision.is_permanent:
            return None
        refusal = preview_refusal(machine.state, model, request, decision, machine.at)
        return refusal if refusal.reason is Reason.DOES_NOT_FIT else None

    def _is_known(self, model: Model) -> bool:
        known = self._known.get(model.name)
        return known is not None and (known.plan.model is model or known.plan.model == model)

    def _look(self) -> _Machine:
        """The machine now. Raises Overloaded if RAM cannot be read, for want of file descriptors."""
        now, pool = time.monotonic(), self._store.pool
        try:
            memory = self._read_memory({server.id: server.pid for server in pool.servers if server.pid})
        except OSError as error:
            raise Overloaded(f"RAM could not be read: {error}") from error
        state = as_last_read(pool, memory)
        return _Machine(state, world_with_eviction_costs(state, now), now)

    def _update(self, models: Sequence[Model]) -> None:
        """Make the plans that are missing, and renew some of those that are outdated."""
        if self._store.gpus.state is GpuState.UNREAD:
            return  # a model would be planned for the CPU
        if (now := time.monotonic()) >= self._looked_at + READING_SECONDS:
            machine, self._looked_at = self._look(), now
            if self._machine is None or not machine.is_like(self._machine):
                self._machine = replace(machine, number=self._machine.number + 1 if self._machine else 0)
        assert self._machine is not None, "it was looked at"
        loadable = [model for model in models if not model.problem]
        self._make([model for model in loadable if not self._is_known(model)], self._machine, FIRST_SECONDS)
        outdated = [m for m in loadable if self._is_known(m) and self._known[m.name].machine != self._machine.number]
        if outdated:
            requested = self._machine.state.demands
            outdated.sort(key=lambda model: (self._known[model.name].machine, model.name not in requested))
            self._renew(outdated, self._machine)

    def _renew(self, models: Sequence[Model], machine: _Machine) -> None:
        now = time.monotonic()
        saved = self._renewal_seconds + RENEWAL_SHARE * (now - self._renewed_at)
        self._renewal_seconds, self._renewed_at = min(RENEWAL_BURST_SECONDS, saved), now
        if self._renewal_seconds > 0:
            self._renewal_seconds -= self._make(models, machine, min(self._renewal_seconds, RENEWAL_CALL_SECONDS))

    def _make(self, models: Sequence[Model], machine: _Machine, seconds: float) -> float:
        """Make plans until so much time has passed; returns the CPU time that they took."""
        ends, began = time.monotonic() + seconds, time.thread_time()
        for model in models:
            if time.monotonic() >= ends:
                break
            self._known[model.name] = _Known(self._plan_of(model, machine), machine.number)
        return time.thread_time() - began

    def _plan_of(self, model: Model, machine: _Machine) -> Plan:
        try:
            request = self._placement_request(model)
        except ProxyError as error:
            return Plan(model, Decision(Outcome.REFUSE, str(error), needed_bytes=0))
        return plan_of(model, _decide(model, request, machine), machine.world)


def _decide(model: Model, request: PlacementRequest, machine: _Machine) -> Decision:
    """As if the model were not loaded."""
    own = [each for each in machine.world.residents if each.model == model.name]
    world = machine.world.after_eviction(own) if own else machine.world
    return preview(machine.state, model, request, world, machine.at)
