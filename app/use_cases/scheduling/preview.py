"""Previews: what would be decided about a model if it were requested now. They change nothing and order no reading."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from app.entities.frozen import replace
from app.entities.memory import MemoryReading
from app.entities.model import Model
from app.entities.placement import CPU, LOAD_QUOTA, Decision, Outcome
from app.entities.refusal import Refusal
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.placement.world import World
from app.use_cases.scheduling.decision_inputs import decide_load
from app.use_cases.scheduling.pool_state import Awaited, PoolState, Waiter
from app.use_cases.scheduling.rejection import gpu_problem, refusal_for

NO_TICKET = 0
# A world whose sizes differ by less is taken for the same one: what other processes hold changes all the time.
SIZE_TOLERANCE, RAM_TOLERANCE = 64 * 1024**2, 256 * 1024**2


def as_last_read(state: PoolState, memory: MemoryReading) -> PoolState:
    """The state with RAM as just read, and with GPUs that are asleep as they were last read."""
    return replace(state, memory=memory, gpus=state.gpus.as_awake())


def preview(state: PoolState, model: Model, request: PlacementRequest, world: World, now: float) -> Decision:
    """The decision about the model, before fairness postpones it and without the reservations of waiting loads."""
    waiter = _waiter(model, request, now)
    if problem := gpu_problem(state, waiter, now):
        return Decision(Outcome.REFUSE, problem, needed_bytes=0)
    return decide_load(state, waiter, world)


def preview_refusal(
    state: PoolState, model: Model, request: PlacementRequest, decision: Decision, now: float
) -> Refusal:
    """The refusal that a request would get for a decision with the outcome REFUSE."""
    return refusal_for(state, _waiter(model, request, now), decision, now)


def _waiter(model: Model, request: PlacementRequest, now: float) -> Waiter:
    return Waiter(NO_TICKET, model, now, inf, Awaited.LOADED, request)


def is_alike(before: World, after: World) -> bool:
    """Whether decisions in both worlds are the same, but for models that just fit or just do not."""
    return _without_sizes(before) == _without_sizes(after) and _are_close(_sizes(before), _sizes(after))


def _without_sizes(world: World) -> World:
    """Rates and loading times change the order of evictions only slowly; that a GPU computes lasts a moment."""
    cards = (replace(card, usable_bytes=0, releasing_bytes=0, draining_bytes=0, is_busy=False) for card in world.cards)
    residents = (
        replace(
            each,
            held_bytes={},
            idle_seconds=float(each.idle_seconds >= world.policy.long_idle_seconds),
            requests_per_second=None,
            load_seconds=None,
        )
        for each in world.residents
    )
    return World(tuple(cards), tuple(residents), absent=world.absent, policy=world.policy, views=world.views)


def _sizes(world: World) -> dict[tuple[str, str], int]:
    sizes = {
        (card.uuid, what): getattr(card, what)
        for card in world.cards
        for what in ("usable_bytes", "releasing_bytes", "draining_bytes")
    }
    for name in ("shared", "releasing", "draining", "totals", "taken"):
        sizes |= {(what, name): size for what, size in getattr(world, name).items()}
    return sizes


def _are_close(before: Mapping[tuple[str, str], int], after: Mapping[tuple[str, str], int]) -> bool:
    tolerances = {CPU: RAM_TOLERANCE, LOAD_QUOTA: 0}
    return all(
        abs(before.get(key, 0) - after.get(key, 0)) <= tolerances.get(key[0], SIZE_TOLERANCE)
        for key in before.keys() | after.keys()
    )
