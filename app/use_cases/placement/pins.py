"""Pins: whether the models that stay once loaded fit the machine together. Nothing ever makes room for one of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice, permutations

from app.entities.gpu import GpuSnapshot, GpuState
from app.entities.launch import ModelOptions
from app.entities.memory import Confidence, DeviceMemory, Estimate
from app.entities.placement import CpuFallback, Decision, Outcome, Placement
from app.use_cases.placement.candidates import contexts
from app.use_cases.placement.cards import mib
from app.use_cases.placement.placement import decide
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.placement.usable_gpus import are_usable, why_no_place
from app.use_cases.placement.world import World

MOST_ORDERS = 120  # all of five models; beyond that, those in which the largest come first
CERTAIN = (GpuState.OK, GpuState.DISABLED, GpuState.NO_GPU, GpuState.NO_LIBRARY, GpuState.NO_DRIVER)

Pinned = Mapping[str, PlacementRequest]  # by model name


@dataclass(frozen=True, slots=True)
class Together:
    """Where pinned models would be, loaded one after the other on an empty machine, and those that find no room."""

    places: Mapping[str, Placement]
    without: Mapping[str, Decision]


def together(pinned: Pinned, world: World) -> Together:
    """The first order that leaves none without a place, else the one with the largest model first."""
    empty = world.empty()
    largest_first = sorted(pinned, key=lambda name: -decide(pinned[name], empty).needed_bytes)
    tries = (_in_order(order, pinned, empty) for order in islice(permutations(largest_first), MOST_ORDERS))
    first = next(tries)
    return first if not first.without else next((each for each in tries if not each.without), first)


def _in_order(order: Iterable[str], pinned: Pinned, world: World) -> Together:
    places: dict[str, Placement] = {}
    without: dict[str, Decision] = {}
    for name in order:
        decision = decide(pinned[name], world)
        if decision.outcome is Outcome.PLACE and decision.placement:
            places[name] = decision.placement
            world = world.promised(decision.placement, ())
        else:
            without[name] = decision
    return Together(places, without)


def can_be_told(gpus: GpuSnapshot, fallback: CpuFallback) -> bool:
    """Whether what models may have of the machine is known: not while a GPU is missed, or not read yet."""
    is_read = gpus.state in CERTAIN and all(gpu.total_bytes is not None for gpu in gpus.gpus)
    return is_read and not gpus.complaints and (are_usable(gpus) or not why_no_place(gpus, fallback))


def why_not_together(pinned: Pinned, world: World) -> tuple[str, ...]:
    """A line for each pinned model that is left without a place whatever is done: none if they fit.

    A context that is chosen when a model is loaded counts as the shortest. Of needs that are guessed only the weights
    count: nothing else of them is certain.
    """
    found = together({name: _at_least(request) for name, request in pinned.items()}, world)
    return tuple(_line(name, decision, found.places) for name, decision in found.without.items())


def kept_out_by_contexts(pinned: Pinned, world: World) -> tuple[str, ...]:
    """A line for each that fits beside the others' shortest contexts only: those loaded first choose longer ones."""
    return tuple(
        f"models.{name}.pin: there may be no room for it beside the other pinned models, as with ctx_size auto they "
        "choose a long context where there is room for one; set ctx_size in each"
        for name in together(pinned, world).without
    )


def _at_least(request: PlacementRequest) -> PlacementRequest:
    options = replace(request.options, ctx_size=contexts(request)[-1])

    def certain(options: ModelOptions, gpus: tuple[str, ...]) -> Estimate:
        need = request.need(options, gpus)
        return _weights_of(need) if need.confidence is Confidence.LOW else need

    return PlacementRequest(request.shape, options, certain, replace(request.constraints, has_auto_context=False))


def _weights_of(need: Estimate) -> Estimate:
    devices = tuple(DeviceMemory(each.weights_bytes) for each in need.devices)
    return replace(need, devices=devices, host=DeviceMemory(need.host.weights_bytes))


def _line(name: str, decision: Decision, places: Mapping[str, Placement]) -> str:
    instead = f", or give it {decision.nearest}" if decision.nearest else ""
    if decision.for_ever:
        return f"models.{name}.pin: it does not fit this machine: {decision.reason}. Unpin it{instead}"
    others = ", ".join(f"{other} ({mib(place.needed_bytes)} on {place.device})" for other, place in places.items())
    return (
        f"models.{name}.pin: pinned models stay loaded, and there is no room for it beside {others}: "
        f"{decision.reason}. Unpin one of them{instead}"
    )
