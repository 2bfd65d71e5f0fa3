"""Whether a model drafts tokens with its own MTP layers, where the settings leave it to the placement: a table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.entities.launch import DRAFTS_ITSELF, ModelOptions
from app.entities.memory import Estimate
from app.entities.placement import Decision, Outcome, PlacementConstraints
from app.use_cases.estimate.estimate import estimate_memory
from app.use_cases.launch.command_line import launch_on
from app.use_cases.placement.placement import decide
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.placement.world import World
from bench.estimate import shape_of
from tests.helpers.builders import a_launch
from tests.placement.test_placement import GIB, card, resident

MTP, NONE = ("x-glm4moe-a", "Q4_K_M"), ("llama-3.1-8b", "Q4_K_M")  # 12.9 GiB; 4.6 GiB
DRAFTS, SHORT = "; drafts tokens with its MTP layers", "; speculative decoding left off: memory is short"
NOT_ON_GPUS = "; speculative decoding left off: not all of the model is on GPUs"


def request(model: tuple[str, str] = MTP, **constraints: object) -> PlacementRequest:
    shape = shape_of(*model)

    def estimate(options: ModelOptions, _: tuple[str, ...]) -> Estimate:
        return estimate_memory(shape, options)

    constraints = {"has_auto_speculation": True, **constraints}
    return PlacementRequest(shape, ModelOptions(ctx_size=4096), estimate, PlacementConstraints(**constraints))


def needed_gib(speculation: str) -> float:
    options = ModelOptions(ctx_size=4096, speculation=speculation)
    return estimate_memory(shape_of(*MTP), options).devices[0].booked_bytes / GIB


def drafting(decision: Decision) -> str:
    assert decision.placement is not None, decision
    return decision.placement.speculation


PLAIN, WITH_MTP = needed_gib("none"), needed_gib(DRAFTS_ITSELF)
BETWEEN = (PLAIN + WITH_MTP) / 2  # enough without, too little with


def test_mtp_layers_take_memory():
    assert WITH_MTP > PLAIN + 0.1


@pytest.mark.parametrize(
    ("world", "outcome", "evicts", "speculation", "says"),
    [
        (World((card(0, 24),)), Outcome.PLACE, (), DRAFTS_ITSELF, DRAFTS),
        (World((card(0, BETWEEN),)), Outcome.PLACE, (), "", SHORT),
        # with MTP it would need a second GPU
        (World((card(0, BETWEEN), card(1, BETWEEN))), Outcome.PLACE, (), "", SHORT),
        # ... or an eviction
        (World((card(0, BETWEEN),), (resident(7, GPU_0=6),)), Outcome.PLACE, (), "", SHORT),
        # the same eviction that it needs anyway
        (World((card(0, 4),), (resident(7, GPU_0=18),)), Outcome.EVICT, (7,), DRAFTS_ITSELF, DRAFTS),
        # a second eviction
        (
            World((card(0, 4),), (resident(7, GPU_0=BETWEEN - 4), resident(8, idle=61, GPU_0=5))),
            *(Outcome.EVICT, (7,), "", SHORT),
        ),
        (World((), shared={"cpu": 64 * GIB}), Outcome.PLACE, (), "", NOT_ON_GPUS),
    ],
)
def test_drafting_never_costs_anything_else(
    world: World, outcome: Outcome, evicts: tuple[int, ...], speculation: str, says: str
):
    decision = decide(request(), world)
    assert (decision.outcome, decision.evict, drafting(decision)) == (outcome, evicts, speculation), decision
    plain = decide(request(has_auto_speculation=False), world)
    assert plain.placement is not None and decision.placement is not None
    assert (plain.outcome, plain.evict, plain.placement.uuids) == (outcome, evicts, decision.placement.uuids)
    assert decision.reason == plain.reason + says


def test_an_automatic_context_is_as_long_as_without_drafting():
    world = World((card(0, 24),))
    auto = request(has_auto_context=True)
    plain, found = decide(replace(auto, engine_drafts=False), world), decide(auto, world)
    assert plain.placement is not None and found.placement is not None
    assert found.placement.ctx_size == plain.placement.ctx_size


@pytest.mark.parametrize(
    "asked",
    [
        request(NONE),
        request(has_auto_speculation=False),
        replace(request(), engine_drafts=False),
        replace(request(), options=ModelOptions(ctx_size=4096, speculation="ngram-mod")),
    ],
)
def test_nothing_is_said_where_there_is_no_choice(asked: PlacementRequest):
    decision = decide(asked, World((card(0, 24),)))
    assert drafting(decision) == "" and "draft" not in decision.reason and "speculative" not in decision.reason


def test_what_was_booked_for_drafting_is_started():
    found = decide(request(), World((card(0, 24),))).placement
    assert found is not None and found.estimate.devices[0].booked_bytes == round(WITH_MTP * GIB)
    assert launch_on(a_launch(), found).options.speculation == DRAFTS_ITSELF
    assert launch_on(a_launch(), replace(found, speculation="")).options.speculation == "none"
