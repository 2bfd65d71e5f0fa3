"""Whether a model drafts tokens with its own MTP layers, where the settings leave it to the placement: a table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.entities.launch import DRAFTS_ITSELF, ModelOptions
from app.entities.memory import Estimate
from app.entities.placement import Decision, Outcome, PlacementConstraints
from app.use_cases.estimate.companions import Companions
from app.use_cases.estimate.estimate import estimate_memory
from app.use_cases.launch.command_line import launch_on
from app.use_cases.model_shape.draft_head import EAGLE3
from app.use_cases.placement.placement import decide
from app.use_cases.placement.request import DraftHead, PlacementRequest
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


def with_a_head(**constraints: object) -> PlacementRequest:
    """Llama 3.1 8B, beside which is an EAGLE3 head."""
    plain = request(NONE, **constraints)
    head = DraftHead("/models/eagle3-llama.gguf", EAGLE3, shape_of("eagle3-llama-3.1-8b", "Q4_K_M"))

    def estimate(options: ModelOptions, _: tuple[str, ...]) -> Estimate:
        drafts = options.speculation == EAGLE3
        return estimate_memory(plain.shape, options, companions=Companions(head.shape if drafts else None))

    return replace(plain, estimate=estimate, draft_head=head)


def test_a_head_beside_the_model_is_booked_and_started():
    found = decide(with_a_head(), World((card(0, 24),)))
    assert found.placement is not None and found.reason.endswith("; drafts tokens with eagle3-llama.gguf")
    plain = decide(request(NONE), World((card(0, 24),))).placement
    assert plain is not None and found.placement.estimated_bytes > plain.estimated_bytes + 0.6 * GIB  # 274 + 358 MiB
    started = launch_on(a_launch(), found.placement)
    assert (started.options.speculation, started.args[-2:]) == (EAGLE3, ("--model-draft", "/models/eagle3-llama.gguf"))


def test_a_head_is_left_off_where_memory_is_short_or_the_model_is_split():
    needed = decide(request(NONE), World((card(0, 24),))).placement
    assert needed is not None
    short = World((card(0, needed.estimated_bytes / GIB + 0.6),))
    on_two = World((card(0, 24), card(1, 24)))
    for world, constraints, why in (
        (short, {}, "memory is short"),
        (on_two, {"min_gpus": 2}, "the model is on several GPUs"),
    ):
        found = decide(with_a_head(**constraints), world)
        assert found.reason.endswith(f"; speculative decoding left off: {why}"), found
        assert found.placement is not None and found.placement.draft_head == drafting(found) == ""


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
        with_a_head(has_auto_speculation=False),
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
