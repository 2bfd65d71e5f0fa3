"""Decides where a model is placed: one free GPU, one after evicting idle servers, else the fewest that hold it.

Greedy and pure: the same world gives the same decision, and each step records its numbers in `considered`. RAM is
checked together with the GPUs: a model with all layers on a GPU still needs some.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, cached_property

from app.entities.placement import (
    CPU,
    LOAD_QUOTA,
    UNBOOKED_RAM,
    Decision,
    Outcome,
    Placement,
    Resident,
    no_suggestion,
)
from app.entities.wait_cause import WaitCause
from app.use_cases.placement.candidates import Candidate, Candidates
from app.use_cases.placement.cards import can_split, describe_card, format_mib, placement_rank, shortfall, usable_text
from app.use_cases.placement.contexts import choose_context, waiting_for_others, with_context_note
from app.use_cases.placement.estimate_cache import EstimateCache
from app.use_cases.placement.prompt_cache import decision_with_prompt_cache, taking_caches, without_spare_caches
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.placement.speculation import with_optional_speculation
from app.use_cases.placement.suggestion import find_suggestion
from app.use_cases.placement.victims import eviction_rank, model_names
from app.use_cases.placement.world import World


def decide(request: PlacementRequest, world: World) -> Decision:
    """Where the model is placed, and whether it drafts tokens there, where that is optional (speculation.py)."""
    world = world.seen_by(request.engine)
    return with_optional_speculation(request, lambda each: _decide_plain(each, world))


def _decide_plain(request: PlacementRequest, world: World) -> Decision:
    """Where the model is placed, which servers to evict for it first, or why it is refused.

    Memory being released is not free yet, but is no reason to evict another server: if it will make a better placement
    possible, the load waits for it. Draining servers may take minutes: the load waits for them only if there is no
    other placement, not even with an eviction.

    With ctx_size "auto" the context is chosen first, whatever is loaded. A load that other processes leave no room for
    waits, until the world lists their memory as taken.
    """
    context = choose_context(request, world)
    chosen = request
    if context.ctx_size != request.options.ctx_size:
        chosen = replace(request, options=replace(request.options, ctx_size=context.ctx_size))
    found = _decide(EstimateCache(chosen), world)
    if found.outcome is not Outcome.PLACE and found.cause is not WaitCause.RELEASING:
        found = _without_caches(EstimateCache(chosen), world, found) or found
    if found.outcome is Outcome.REFUSE and request.constraints.has_auto_context:
        found = waiting_for_others(found, request, world, context)
    found = decision_with_prompt_cache(found, chosen, world)
    return with_context_note(found, request, world, context) if context.is_shortened else found


def _without_caches(estimates: EstimateCache, world: World, found: Decision) -> Decision | None:
    """What to do if it would have a place without other servers' prompt caches, or evict fewer; None: it would not."""
    if not any(each.spare_cache_bytes for each in world.residents):
        return None
    without = _decide(estimates, without_spare_caches(world))
    is_better = without.outcome is Outcome.PLACE or (
        without.outcome is Outcome.EVICT and (found.outcome is not Outcome.EVICT or {*without.evict} < {*found.evict})
    )
    return taking_caches(without, world) if is_better else None


def _decide(estimates: EstimateCache, world: World) -> Decision:
    found = _Decider(estimates, world).decide()
    if world.is_releasing and _rank(found) > 1:
        soon = _Decider(estimates, world.after_release()).decide()
        found = _better(found, soon, WaitCause.RELEASING, "memory being released")
    if world.has_draining and found.outcome in (Outcome.WAIT, Outcome.REFUSE):
        later = _Decider(estimates, world.after_drain()).decide()
        found = _better(found, later, WaitCause.DRAINING, "draining servers to finish")
    return found


def _better(now: Decision, soon: Decision, cause: WaitCause, awaited: str) -> Decision:
    """`now`, or waiting for the better placement that `soon` found."""
    if soon.outcome is Outcome.PLACE and _rank(soon) < _rank(now):
        return replace(
            now,
            outcome=Outcome.WAIT,
            reason=f"waiting for {awaited}: {soon.reason}",
            cause=cause,
            awaited=(),
            placement=None,
            awaited_placement=soon.placement,
            evict=(),
            suggest=no_suggestion,
            is_permanent=False,
        )
    return now if now.outcome is Outcome.PLACE else soon


def _rank(decision: Decision) -> int:
    """Rank of the placement; none is worst. Released memory becomes free in steps: more layers are worth a wait."""
    if decision.placement is None or decision.outcome is not Outcome.PLACE:
        return 1_000_000
    return placement_rank(decision.placement)


def _free_ram(candidates: Candidates) -> int:
    return max(0, min(candidates.free[CPU], candidates.free.get(UNBOOKED_RAM, candidates.free[CPU])))


def _is_short_of_ram(placement: Placement, candidates: Candidates) -> bool:
    return bool({CPU, UNBOOKED_RAM} & shortfall(placement.needs, candidates.free).keys())


class _Decider:
    """One decision: its steps in their order."""

    def __init__(self, estimates: EstimateCache, world: World) -> None:
        self.estimates = estimates
        self.constraints = estimates.request.constraints
        self.world = world
        self.candidates = Candidates(estimates, world)

    def decide(self) -> Decision:
        """The first step that finds a placement decides."""
        if found := self._now_or_after_evicting_idle():
            return self._placed(found)
        return self._waiting() or self._refused()

    def _now_or_after_evicting_idle(self) -> Candidate | None:
        candidates, long_idle, evictable, idle = self.candidates, self._long_idle, self._evictable, self._idle
        if candidates.is_cpu_only:
            why = "no GPU can be used" if not self.world.cards else "n_gpu_layers is 0"
            return candidates.on_cpu((), why) or candidates.on_cpu(evictable, why) or candidates.on_cpu(idle, why)
        return (
            candidates.on_free_card()
            or candidates.on_card_with_eviction(long_idle, "long-idle")
            or candidates.on_several_cards(())
            or self._with_eviction(evictable)
            or self._with_eviction(idle)
            or candidates.with_parts_in_ram()
            or candidates.with_parts_in_ram_and_eviction(idle)
        )

    def _with_eviction(self, servers: list[Resident]) -> Candidate | None:
        """Several GPUs after evicting long-idle servers, else one GPU after evicting any of `servers`, else several.

        If the last does not fit, the first does not either.
        """
        if not servers:
            return None
        on_several = self.candidates.on_several_cards(servers)
        of_long_idle = self.candidates.on_several_cards(self._long_idle) if on_several and self._long_idle else None
        return of_long_idle or self.candidates.on_card_with_eviction(servers, "idle") or on_several

    @cached_property
    def _long_idle(self) -> list[Resident]:
        """Surplus replicas and servers idle for long: evicting one costs less than splitting the model for good."""
        limit = self.world.policy.long_idle_seconds
        return [each for each in self._evictable if each.is_surplus or each.idle_seconds >= limit]

    @cached_property
    def _evictable(self) -> list[Resident]:
        """Idle servers past their minimum residency; the others are evicted only if these are not enough."""
        return [each for each in self._idle if each.is_surplus or not each.is_in_min_residency]

    @cached_property
    def _idle(self) -> list[Resident]:
        idle = (each for each in self._unpinned if not (each.is_busy or each.is_loading))
        return sorted(idle, key=eviction_rank)

    @cached_property
    def _unpinned(self) -> list[Resident]:
        return [each for each in self.world.residents if not each.is_pinned]

    @property
    def _pinned(self) -> list[Resident]:
        return [each for each in self.world.residents if each.is_pinned]

    def _waiting(self) -> Decision | None:
        """WAIT if busy or loading servers hold the memory; the busy ones to stop once idle are named in `evict`."""
        ready = [each for each in self._unpinned if not each.is_loading]
        ready.sort(key=lambda each: (each.is_busy, eviction_rank(each)))
        if found := self.candidates.with_eviction(ready):
            busy = [each for each in found.victims if each.is_busy]
            reason = f"waiting for {model_names(busy)} to become idle"
            victims = tuple(each.id for each in found.victims)
            decision = self._decision(Outcome.WAIT, reason, found.placement.needed_bytes)
            decision = replace(decision, cause=WaitCause.BUSY, awaited=tuple(each.id for each in busy))
            return replace(decision, awaited_placement=found.placement, evict=victims)
        by_rank = sorted(self._unpinned, key=eviction_rank)
        if len(ready) < len(self._unpinned) and (found := self.candidates.with_eviction(by_rank)):
            reason = "waiting for servers that are still loading"
            decision = self._decision(Outcome.WAIT, reason, found.placement.needed_bytes)
            loading = tuple(each.id for each in found.victims if each.is_loading)
            return replace(decision, cause=WaitCause.LOADING, awaited=loading)
        return None

    def _refused(self) -> Decision:
        evicted = self.world.after_drain().after_eviction(self._unpinned)
        if self._pinned and evicted.shared.get(LOAD_QUOTA, 1) < 1:
            reason = f"pinned models ({model_names(self._pinned)}) use up scheduling.max_loaded; raise it or unpin one"
            return self._decision(Outcome.REFUSE, reason, needed_bytes=0)
        empty = self.world.empty()
        on_empty = Candidates(self.estimates, empty)
        is_permanent = on_empty.without_eviction() is None
        smallest = self.candidates.smallest()
        candidates, usable = (on_empty, "usable at most") if is_permanent else (self.candidates, "usable")
        reason = self._why_refused(smallest, candidates, usable)
        if self._pinned and not is_permanent:
            reason = f"{reason}; pinned models are not evicted: {model_names(self._pinned)}"
        found = self._decision(Outcome.REFUSE, reason, smallest.needed_bytes if smallest else 0)
        if smallest and _is_short_of_ram(smallest, candidates):
            needed, free = smallest.needs[CPU], {CPU: _free_ram(self.candidates)}
            found = replace(found, needed_bytes=needed, free_bytes=free)
        world = empty if is_permanent else evicted
        suggest = cache(lambda: find_suggestion(self.estimates, world))
        return replace(found, is_permanent=is_permanent, suggest=suggest)

    def _why_refused(self, smallest: Placement | None, candidates: Candidates, usable: str) -> str:
        """With the numbers of `candidates`: the machine as it is, or empty if it does not fit there either."""
        if smallest is None:
            lists = {"gpus": self.constraints.gpus, "exclude": self.constraints.exclude}
            settings = "; ".join(f"{key}: {', '.join(names)}" for key, names in lists.items() if names)
            present = ", ".join(map(describe_card, self.world.cards))
            return f"none of the GPUs allowed by its settings is present ({settings}); present: {present}"
        if _is_short_of_ram(smallest, candidates):
            free, ram = format_mib(_free_ram(candidates)), "unified memory" if smallest.unified else "RAM"
            return f"it needs {format_mib(smallest.needs[CPU])} of {ram}; {usable}: {free}"
        cards = candidates.cards
        free = usable_text(cards)
        min_gpus = self.constraints.min_gpus
        if min_gpus > 1:
            count = sum(map(can_split, cards))
            few = f"only {count} {'is' if count == 1 else 'are'} available for a split"
            problem = "it does not fit on them" if count >= min_gpus else few
            return f"min_gpus is {min_gpus}, but {problem}; {usable}: {free}"
        on = "on one GPU" if len(cards) == 1 or self.constraints.max_gpus == 1 else "on one GPU, more on several"
        return f"it needs {format_mib(smallest.needed_bytes)} {on}; {usable}: {free}"

    @property
    def _free_bytes(self) -> dict[str, int]:
        if self.candidates.is_cpu_only:
            return {CPU: _free_ram(self.candidates)} if CPU in self.candidates.free else {}
        return {card.uuid: max(0, card.usable_bytes) for card in self.candidates.cards}

    def _placed(self, found: Candidate) -> Decision:
        victims = tuple(victim.id for victim in found.victims)
        outcome = Outcome.EVICT if victims else Outcome.PLACE
        decision = self._decision(outcome, found.reason, found.placement.needed_bytes)
        return replace(decision, placement=found.placement, evict=victims)

    def _decision(self, outcome: Outcome, reason: str, needed_bytes: int) -> Decision:
        considered = tuple(dict.fromkeys(self.candidates.considered))
        if outcome in (Outcome.EVICT, Outcome.WAIT) and self.world.shared.get(LOAD_QUOTA, 1) < 1:
            reason = f"{reason}; scheduling.max_loaded is reached"
        return Decision(outcome, reason, needed_bytes, free_bytes=self._free_bytes, considered=considered)
