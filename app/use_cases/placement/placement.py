"""Chooses the place of a model: one GPU that is free, one after stopping idle servers, else the fewest that hold it.

Greedy, and each step leaves its numbers behind. Pure: the same world gives the same decision. RAM is looked at with the
GPUs: a model with all its layers on one still takes some.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, cached_property

from app.entities.launch import ALL_LAYERS
from app.entities.placement import BOOKS, CPU, PLACES, Decision, Outcome, Placement, Resident, nothing
from app.use_cases.placement.candidates import Candidate, Candidates, EstimateCache
from app.use_cases.placement.cards import lacking, mib, name_of, names_of, rank_of_stopping
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.placement.suggestion import nearest
from app.use_cases.placement.world import World


def decide(request: PlacementRequest, world: World) -> Decision:
    """Where the model goes, what has to leave for it first, or why there is no place.

    What is on its way back is not free yet, and no reason to stop another server: a place that it makes is waited for,
    if it is better than the one there is. What a server has that still answers may take minutes: that is waited for
    only where there is no place else, with no idle server to stop for it either.
    """
    needs = EstimateCache(request)
    found = _Deciding(needs, world).decide()
    if world.is_coming_back and _rank(found) > 1:
        soon = _Deciding(needs, world.once_it_is_back()).decide()
        found = _now_or_soon(found, soon, "memory that is coming back is there")
    if world.is_drained and found.outcome in (Outcome.WAIT, Outcome.REFUSE):
        later = _Deciding(needs, world.once_they_have_left()).decide()
        found = _now_or_soon(found, later, "servers that are on their way out have answered")
    return found


def _now_or_soon(now: Decision, soon: Decision, once: str) -> Decision:
    if soon.outcome is Outcome.PLACE and _rank(soon) < _rank(now):
        reason = f"it has room once {once}: {soon.reason}"
        return replace(
            now,
            outcome=Outcome.WAIT,
            reason=reason,
            placement=None,
            awaited=soon.placement,
            evict=(),
            advise=nothing,
            for_ever=False,
        )
    return now if now.outcome is Outcome.PLACE else soon


def _rank(decision: Decision) -> int:
    """How good a place is: the fewer GPUs the better, and all layers on one the best. None is the worst.

    With less than all on GPUs, the number of layers there comes first: some memory is back before the rest is.
    """
    placement = decision.placement
    if placement is None or decision.outcome is not Outcome.PLACE:
        return 1_000_000
    if placement.is_on_cpu:
        return 100_000
    is_partial = placement.n_gpu_layers < ALL_LAYERS or placement.n_cpu_moe > 0
    away = max(0, ALL_LAYERS - placement.n_gpu_layers)
    return len(placement.uuids) + (1_000 + 50 * away if is_partial else 0)


def _free_ram(candidates: Candidates) -> int:
    return max(0, min(candidates.room[CPU], candidates.room.get(BOOKS, candidates.room[CPU])))


def _is_short_of_ram(least: Placement, candidates: Candidates) -> bool:
    return bool({CPU, BOOKS} & lacking(least.needs, candidates.room).keys())


class _Deciding:
    """One decision; its steps in their order."""

    def __init__(self, needs: EstimateCache, world: World) -> None:
        self.needs = needs
        self.constraints = needs.request.constraints
        self.world = world
        self.candidates = Candidates(needs, world)

    def decide(self) -> Decision:
        """The first step that finds a place decides."""
        if found := self._with_those_idle():
            return self._placed(found)
        return self._waiting() or self._refused()

    def _with_those_idle(self) -> Candidate | None:
        candidates, cheap, old, idle = self.candidates, self._cheap, self._old, self._idle
        if candidates.is_for_the_cpu:
            why = "there is no GPU" if not self.world.cards else "it is to have no layers on GPUs"
            return candidates.on_the_cpu((), why) or candidates.on_the_cpu(old, why) or candidates.on_the_cpu(idle, why)
        return (
            candidates.on_one_that_is_free()
            or candidates.on_one_after(cheap, "idle for long")
            or candidates.on_several(())
            or self._with_those_stopped(old)
            or self._with_those_stopped(idle)
            or candidates.with_less_on_gpus()
            or candidates.with_less_after(idle)
        )

    def _with_those_stopped(self, idle: list[Resident]) -> Candidate | None:
        """Several cards after those idle for long have left, one after others have, or several. If the last cannot be,
        the first cannot either."""
        if not idle:
            return None
        on_several = self.candidates.on_several(idle)
        after_cheap = self.candidates.on_several(self._cheap) if on_several and self._cheap else None
        return after_cheap or self.candidates.on_one_after(idle, "idle") or on_several

    @cached_property
    def _cheap(self) -> list[Resident]:
        """Servers that nobody has used for long, or that are not missed: stopping one costs less than a split for all
        its life."""
        long = self.world.policy.residency_seconds
        return [each for each in self._old if each.is_spare or each.idle_seconds >= long]

    @cached_property
    def _old(self) -> list[Resident]:
        """Those whose residency is over: younger ones are stopped only where these do not make room."""
        return [each for each in self._idle if each.is_spare or not each.is_young]

    @cached_property
    def _idle(self) -> list[Resident]:
        idle = (each for each in self._ours if not (each.is_busy or each.is_loading))
        return sorted(idle, key=rank_of_stopping)

    @cached_property
    def _ours(self) -> list[Resident]:
        return [each for each in self.world.residents if not each.is_pinned]

    @property
    def _pinned(self) -> list[Resident]:
        return [each for each in self.world.residents if each.is_pinned]

    def _waiting(self) -> Decision | None:
        """What is in the way is ours: busy, or loading. The busy ones that have to go are named."""
        ready = [each for each in self._ours if not each.is_loading]
        ready.sort(key=lambda each: (each.is_busy, rank_of_stopping(each)))
        if found := self.candidates.after(ready):
            busy = [each for each in found.gone if each.is_busy]
            reason = f"it has room once {names_of(busy)} {'is' if len(busy) == 1 else 'are'} no longer busy"
            leaving = tuple(each.id for each in found.gone)
            decision = self._decision(Outcome.WAIT, reason, found.placement.needed_bytes)
            return replace(decision, awaited=found.placement, evict=leaving)
        if len(ready) < len(self._ours) and (found := self.candidates.after(sorted(self._ours, key=rank_of_stopping))):
            reason = "it has room once servers that are loading could be stopped"
            return self._decision(Outcome.WAIT, reason, found.placement.needed_bytes)
        return None

    def _refused(self) -> Decision:
        left = self.world.once_they_have_left().without(self._ours)
        if self._pinned and left.shared.get(PLACES, 1) < 1:
            taken = f"pinned models ({names_of(self._pinned)}) take all that scheduling.max_loaded allows"
            return self._decision(Outcome.REFUSE, f"{taken}; raise it, or unpin one", needed_bytes=0)
        empty = self.world.empty()
        on_empty = Candidates(self.needs, empty, self.candidates.shortest)
        for_ever = on_empty.as_it_is() is None
        least = self.candidates.least()
        candidates, usable = (on_empty, "at most usable") if for_ever else (self.candidates, "usable")
        why = self._why_not(least, candidates, usable)
        if self._pinned and not for_ever:
            why = f"{why}; pinned models stay: {names_of(self._pinned)}"
        found = self._decision(Outcome.REFUSE, why, least.needed_bytes if least else 0)
        if least and _is_short_of_ram(least, candidates):
            needed, free = least.booked_bytes[CPU], {CPU: _free_ram(self.candidates)}
            found = replace(found, needed_bytes=needed, free_bytes=free)
        world = empty if for_ever else left
        return replace(found, for_ever=for_ever, advise=cache(lambda: nearest(self.needs, world)))

    def _why_not(self, least: Placement | None, candidates: Candidates, usable: str) -> str:
        """By the numbers of the machine as it is, or, where not even that would do, of an empty one."""
        if least is None:
            lists = {"gpus": self.constraints.gpus, "exclude": self.constraints.exclude}
            allowed = "; ".join(f"{key}: {', '.join(names)}" for key, names in lists.items() if names)
            here = ", ".join(map(name_of, self.world.cards))
            return f"none of the GPUs that its settings allow is here ({allowed}); here: {here}"
        if _is_short_of_ram(least, candidates):
            return f"it needs {mib(least.booked_bytes[CPU])} of RAM; {usable}: {mib(_free_ram(candidates))}"
        room = ", ".join(f"{name_of(card)} {mib(max(0, card.usable_bytes))}" for card in candidates.cards)
        if self.constraints.min_gpus > 1:
            there = sum(not card.is_mig for card in candidates.cards)
            few = f"there {'is' if there == 1 else 'are'} {there} to split it over"
            but = "they do not hold it" if there >= self.constraints.min_gpus else few
            return f"it is to be on at least {self.constraints.min_gpus} GPUs, and {but}; {usable}: {room}"
        on = (
            "on one GPU"
            if len(candidates.cards) == 1 or self.constraints.max_gpus == 1
            else "on one GPU, more on several"
        )
        return f"it needs {mib(least.needed_bytes)} {on}; {usable}: {room}"

    @property
    def _free_bytes(self) -> dict[str, int]:
        if self.candidates.is_for_the_cpu:
            return {CPU: _free_ram(self.candidates)} if CPU in self.candidates.room else {}
        return {card.uuid: max(0, card.usable_bytes) for card in self.candidates.cards}

    def _placed(self, found: Candidate) -> Decision:
        leaving = tuple(resident.id for resident in found.gone)
        outcome = Outcome.EVICT if leaving else Outcome.PLACE
        decision = self._decision(outcome, found.why, found.placement.needed_bytes)
        return replace(decision, placement=found.placement, evict=leaving)

    def _decision(self, outcome: Outcome, reason: str, needed_bytes: int) -> Decision:
        considered = tuple(dict.fromkeys(self.candidates.said))
        if outcome in (Outcome.EVICT, Outcome.WAIT) and self.world.shared.get(PLACES, 1) < 1:
            reason = f"{reason}; scheduling.max_loaded is reached"
        return Decision(outcome, reason, needed_bytes, free_bytes=self._free_bytes, considered=considered)
