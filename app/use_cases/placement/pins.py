"""Pins: whether the pinned models fit the machine together. They are never evicted, not even for one another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice, permutations

from app.entities.gpu import GpuSnapshot, GpuState
from app.entities.launch import ModelOptions
from app.entities.memory import Confidence, DeviceMemory, Estimate
from app.entities.placement import CpuFallback, Decision, Outcome, Placement
from app.use_cases.placement.cards import format_mib
from app.use_cases.placement.contexts import context_steps
from app.use_cases.placement.placement import decide
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.placement.usable_gpus import unplaceable_reason
from app.use_cases.placement.world import World

MAX_ORDERS = 120  # all orders of five models; of more models, those that load the largest first
CERTAIN_STATES = (GpuState.OK, GpuState.DISABLED, GpuState.NO_GPU, GpuState.NO_LIBRARY, GpuState.NO_DRIVER)

PinnedRequests = Mapping[str, PlacementRequest]  # by model name


@dataclass(frozen=True, slots=True)
class PinnedPlacements:
    """Result of loading the pinned models one after the other on an empty machine, by model name."""

    placements: Mapping[str, Placement]
    unplaced: Mapping[str, Decision]


def place_pinned(pinned: PinnedRequests, world: World) -> PinnedPlacements:
    """The first load order that places all of them, else the order with the largest model first."""
    pinned = {name: request.without_spare_cache() for name, request in pinned.items()}
    empty = world.empty()
    largest_first = sorted(pinned, key=lambda name: -decide(pinned[name], empty).needed_bytes)
    tries = (_in_order(order, pinned, empty) for order in islice(permutations(largest_first), MAX_ORDERS))
    first = next(tries)
    return first if not first.unplaced else next((found for found in tries if not found.unplaced), first)


def _in_order(order: Iterable[str], pinned: PinnedRequests, world: World) -> PinnedPlacements:
    placements: dict[str, Placement] = {}
    unplaced: dict[str, Decision] = {}
    for name in order:
        decision = decide(pinned[name], world)
        if decision.outcome is Outcome.PLACE and decision.placement:
            placements[name] = decision.placement
            world = world.with_pinned(decision.placement)
        else:
            unplaced[name] = decision
    return PinnedPlacements(placements, unplaced)


def is_capacity_known(gpus: GpuSnapshot, fallback: CpuFallback) -> bool:
    """Whether it is certain what the machine has: not while a GPU is missing, or not read yet."""
    return gpus.state in CERTAIN_STATES and not gpus.problems and not unplaceable_reason(gpus, fallback)


def pinned_problems(pinned: PinnedRequests, world: World) -> tuple[str, ...]:
    """A line for each pinned model that cannot be placed in any order; none if they fit together.

    Only what is certain counts: the shortest context of ctx_size "auto", and only the weights of an estimate with low
    confidence.
    """
    found = place_pinned({name: _smallest_need(request) for name, request in pinned.items()}, world)
    return tuple(_line(name, decision, found.placements) for name, decision in found.unplaced.items())


def auto_context_problems(pinned: PinnedRequests, world: World) -> tuple[str, ...]:
    """A line for each pinned model that fits only if the others get short contexts: those loaded first take more."""
    return tuple(
        f"models.{name}.pin: it may not fit together with the other pinned models, because ctx_size auto takes the "
        "longest context that fits; set ctx_size for each of them"
        for name in place_pinned(pinned, world).unplaced
    )


def _smallest_need(request: PlacementRequest) -> PlacementRequest:
    options = replace(request.options, ctx_size=context_steps(request)[0])

    def certain(options: ModelOptions, gpus: tuple[str, ...]) -> Estimate:
        estimate = request.estimate_with_margin(options, gpus)
        return _weights_only(estimate) if estimate.confidence is Confidence.LOW else estimate

    return PlacementRequest(request.shape, options, certain, replace(request.constraints, has_auto_context=False))


def _weights_only(estimate: Estimate) -> Estimate:
    devices = tuple(DeviceMemory(device.weights_bytes) for device in estimate.devices)
    return replace(estimate, devices=devices, host=DeviceMemory(estimate.host.weights_bytes))


def _line(name: str, decision: Decision, placements: Mapping[str, Placement]) -> str:
    alternative = f", or set {decision.suggestion}" if decision.suggestion else ""
    if decision.is_permanent:
        return f"models.{name}.pin: it does not fit this machine: {decision.reason}. Unpin it{alternative}"
    others = ", ".join(
        f"{other} ({format_mib(placement.needed_bytes)} on {placement.device})"
        for other, placement in placements.items()
    )
    return (
        f"models.{name}.pin: pinned models stay loaded, and it does not fit together with {others}: "
        f"{decision.reason}. Unpin one of them{alternative}"
    )
