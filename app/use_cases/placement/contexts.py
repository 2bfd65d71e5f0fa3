"""Contexts: the context size of a model with `ctx_size: auto`.

It follows from the model and the machine, never from what is loaded: the same model gets the same context each time.
Our own servers are waited for or evicted. Only memory that nobody here can free makes it shorter: what pinned models
hold, and what the world lists as `taken`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace

from app.entities.launch import AUTO_CTX_TOKENS, LONGEST_AUTO_CTX_TOKENS, LONGEST_AUTO_INPUT_TOKENS, Task
from app.entities.placement import CPU, LOAD_QUOTA, UNBOOKED_RAM, Decision, Outcome, Placement
from app.entities.wait_cause import WaitCause
from app.use_cases.placement.candidates import Candidates
from app.use_cases.placement.cards import allowed_cards, describe_card, format_mib, placement_rank
from app.use_cases.placement.estimate_cache import EstimateCache
from app.use_cases.placement.request import FoundContext, PlacementRequest
from app.use_cases.placement.victims import memory_held_by, model_names, without_spare_cache
from app.use_cases.placement.world import World

STEPS = (AUTO_CTX_TOKENS, 8192, 16384, 32768, 65536, LONGEST_AUTO_CTX_TOKENS)
# A longer context may take half of a card at most, so that two models fit. If the model embeds or reranks, any but the
# smallest.
LONGEST_ON_WHOLE_CARD = 32768
MAX_REMEMBERED = 64  # machines for each model: what others hold may change often


@dataclass(frozen=True, slots=True)
class ChosenContext:
    """The context that a model gets, and the one it would get on the empty machine."""

    ctx_size: int
    full_ctx_size: int

    @property
    def is_shortened(self) -> bool:
        return self.ctx_size < self.full_ctx_size

    def recorded_in(self, placement: Placement | None) -> Placement | None:
        if placement is None or not self.is_shortened:
            return placement
        return replace(placement, full_ctx_size=self.full_ctx_size)


def context_steps(request: PlacementRequest) -> tuple[int, ...]:
    """The context sizes that the model may get, smallest first: the steps up to its own, or the one configured.

    Models that embed or rerank get none of the longest: an input is computed at once.
    """
    trained = request.shape.hparams.integer("context_length")
    if not request.constraints.has_auto_context:
        return (request.options.ctx_size or trained,)
    longest = STEPS[-1] if request.options.task is Task.COMPLETION else LONGEST_AUTO_INPUT_TOKENS
    return tuple(step for step in STEPS if step <= min(trained, longest)) or (trained or STEPS[0],)


def max_request_tokens(request: PlacementRequest) -> int:
    """The most context tokens one request can get, on whatever machine; 0 if unknown."""
    options = request.options
    return context_steps(request)[-1] // (1 if options.kv_unified else max(1, options.parallel))


def choose_context(request: PlacementRequest, world: World) -> ChosenContext:
    """The largest step that fits the machine; the smallest if none does."""
    steps = context_steps(request)
    if len(steps) == 1:
        return ChosenContext(steps[0], steps[0])
    full = _largest_context(request, _machine(world, {})) or steps[0]
    kept = _kept_bytes(world)
    return ChosenContext((_largest_context(request, _machine(world, kept)) or steps[0]) if kept else full, full)


def _largest_context(request: PlacementRequest, machine: World) -> int | None:
    """The largest step that fits `machine`, of which all usable memory is available; None if not even the smallest.

    It must fit by the estimate alone, which never changes, and also by what earlier starts were seen to need: a context
    that the engine itself reports to be too large is not tried again.
    """
    steps, found = context_steps(request), _found_by_estimate(request.without_history(), machine)
    estimates = EstimateCache(request)
    if found is None:
        return steps[0] if _placement(estimates, machine, steps[0]) else None
    if not request.has_history:
        return found.ctx_size
    shorter = (step for step in reversed(steps) if step <= found.ctx_size)
    if fitting := next((step for step in shorter if _fits(estimates, machine, step, found.smallest)), None):
        return fitting
    by_history = _largest(request, machine)  # it needs more cards than estimated
    return min(found.ctx_size, by_history.ctx_size) if by_history else None


def _found_by_estimate(request: PlacementRequest, machine: World) -> FoundContext | None:
    """Remembered with the request: a machine with everything free is always the same."""
    key = request.options, request.constraints, machine.cards, tuple(sorted(machine.shared.items()))
    known = request.found_contexts
    if key not in known:
        if len(known) >= MAX_REMEMBERED:
            known.clear()
        known[key] = _largest(request, machine)
    return known[key]


def _largest(request: PlacementRequest, machine: World) -> FoundContext | None:
    """Of the placements that use no more cards, and have no more in RAM, than that of the smallest step."""
    estimates, steps = EstimateCache(request), context_steps(request)
    smallest = _placement(estimates, machine, steps[0])
    if smallest is None:
        return None
    if not smallest.is_on_cpu and smallest.n_gpu_layers < request.options.n_gpu_layers:
        return FoundContext(steps[0], smallest)  # a longer context would leave fewer layers on the GPUs
    if len(smallest.uuids) > request.constraints.min_gpus:  # it never fits half of cards that it needs as a whole
        steps = tuple(step for step in steps if step <= LONGEST_ON_WHOLE_CARD)
    last = bisect_left(steps[1:], True, key=lambda step: not _fits(estimates, machine, step, smallest))
    return FoundContext(steps[last], smallest)


def _fits(estimates: EstimateCache, machine: World, ctx_size: int, smallest: Placement) -> bool:
    generates = estimates.request.options.task is Task.COMPLETION
    longest_on_whole_card = LONGEST_ON_WHOLE_CARD if generates else STEPS[0]
    found = _placement(estimates, _share_for(machine, ctx_size, smallest, longest_on_whole_card), ctx_size)
    return found is not None and placement_rank(found) <= placement_rank(smallest)


def _placement(estimates: EstimateCache, machine: World, ctx_size: int) -> Placement | None:
    options = replace(estimates.request.options, ctx_size=ctx_size)
    found = Candidates(estimates, machine, options).without_eviction()
    return found.placement if found else None


def _share_for(machine: World, ctx_size: int, smallest: Placement, longest_on_whole_card: int) -> World:
    """What a model may take for a context of this size: half of each card for the longest, and half of RAM if the
    context is there, as also on a card that has no memory of its own. The smallest step may take everything."""
    if ctx_size == smallest.ctx_size:
        return machine
    if ctx_size > longest_on_whole_card:
        cards = (replace(card, usable_bytes=min(card.usable_bytes, card.total_bytes // 2)) for card in machine.cards)
        machine = replace(machine, cards=tuple(cards))
    if smallest.is_on_cpu or smallest.unified or smallest.estimate.host.context_bytes:
        half = {what: min(size, machine.totals.get(what, size) // 2) for what, size in machine.shared.items()}
        machine = replace(machine, shared=half)
    return machine


def _machine(world: World, kept: Mapping[str, int]) -> World:
    """The machine with everything free but what is kept, bytes by resource. A GPU that is missing is part of it."""
    cards = tuple(
        replace(
            card,
            usable_bytes=max(0, card.total_bytes - kept.get(card.uuid, 0)),
            releasing_bytes=0,
            draining_bytes=0,
            is_busy=False,
        )
        for card in (*world.cards, *world.absent)
    )
    totals = {**world.shared, **world.totals}
    shared = {what: totals[what] - kept.get(what, 0) for what in (CPU, UNBOOKED_RAM) if what in totals}
    return World(cards, shared=shared, totals=totals)


def _kept_bytes(world: World) -> dict[str, int]:
    """What no eviction frees, by resource."""
    kept = memory_held_by([without_spare_cache(each) for each in world.residents if each.is_pinned])
    for what, size in world.taken.items():
        kept[what] = kept.get(what, 0) + size
    return {what: size for what, size in kept.items() if size > 0 and what != LOAD_QUOTA}


# --- what decisions say of it ------------------------------------------------------------------------------------


def waiting_for_others(refused: Decision, request: PlacementRequest, world: World, context: ChosenContext) -> Decision:
    """Waiting for memory that others hold, if there is enough for a shorter context; else the refusal."""
    shorter = _context_that_fits_now(request, world)
    if shorter is None or shorter >= context.ctx_size:
        return refused
    awaited = "missing GPUs, or for other processes to release memory," if world.absent else "other processes' memory"
    reason = f"waiting for {awaited} for a context of {context.ctx_size:,}; if it stays short, it gets {shorter:,}"
    return Decision(
        *(Outcome.WAIT, reason, refused.needed_bytes),
        free_bytes=refused.free_bytes,
        considered=refused.considered,
        cause=WaitCause.OTHERS,
        shorter_ctx_size=shorter,
    )


def with_context_note(decision: Decision, request: PlacementRequest, world: World, context: ChosenContext) -> Decision:
    """The decision, saying of its placement that the context is shortened, and why."""
    if decision.placement is None and decision.awaited_placement is None:
        return decision
    sizes = f"context {context.ctx_size:,} instead of {context.full_ctx_size:,}"
    return replace(
        decision,
        reason=f"{decision.reason}; {sizes}: {_why_shortened(request, world)}",
        placement=context.recorded_in(decision.placement),
        awaited_placement=context.recorded_in(decision.awaited_placement),
    )


def _context_that_fits_now(request: PlacementRequest, world: World) -> int | None:
    """The largest step for which there is memory once all servers but the pinned ones are evicted; None: no step."""
    evicted = world.after_drain().after_eviction([each for each in world.residents if not each.is_pinned])
    cards = tuple(replace(card, usable_bytes=max(0, card.usable_bytes)) for card in evicted.cards)
    shared = {what: size for what, size in evicted.shared.items() if what != LOAD_QUOTA}
    found = _largest(request, World(cards, shared=shared, totals=world.totals))
    return found.ctx_size if found else None


def _why_shortened(request: PlacementRequest, world: World) -> str:
    """What keeps the memory for the full context."""
    missing = {card.uuid for card in world.absent}
    kept = [
        f"{describe_card(card)} is missing"
        if card.uuid in missing
        else f"other processes hold {format_mib(world.taken[card.uuid])} of {describe_card(card)}"
        for card in allowed_cards((*world.cards, *world.absent), request.constraints)
        if world.taken.get(card.uuid)
    ]
    if not kept and world.taken.get(CPU):
        kept.append(f"other processes hold {format_mib(world.taken[CPU])} of RAM")
    if pinned := [each for each in world.residents if each.is_pinned]:
        kept.append(f"pinned models are not evicted: {model_names(pinned)}")
    return "; ".join(kept)
