"""Past decisions in words."""

from __future__ import annotations

from app.entities.memory import Confidence, DeviceMemory, Estimate
from app.entities.placement import Decision, Outcome, Placement
from app.use_cases.reporting.decision_record import DecisionRecord
from app.use_cases.reporting.decision_text import decision_text
from tests.helpers.builders import GIB, on_the_cpu, replace


def on_gpus(*indices: int, gib: float = 7.9, ram_gib: float = 0.1, **more: int) -> Placement:
    devices = tuple(DeviceMemory(int(gib * GIB / len(indices))) for _ in indices)
    estimate = Estimate(devices, DeviceMemory(int(ram_gib * GIB)), Confidence.EXACT)
    place = Placement(tuple(f"GPU-{each}" for each in indices), (8,) * len(indices), 999, 4096, 0, estimate, indices)
    return replace(place, **more)


def text(outcome: Outcome, place: Placement | None = None, reason: str = "", **more: object) -> str:
    evict, idle = more.pop("evict", ()), more.pop("idle", ())
    decision = Decision(outcome, reason, 0, placement=place, **more)  # type: ignore[arg-type]
    return decision_text(DecisionRecord(0.0, "qwen3-8b", decision, evict, 1.0, 0.0, idle))  # type: ignore[arg-type]


def test_a_placed_model_says_what_it_needs_and_what_was_free():
    free = {"GPU-0": 3 * GIB, "GPU-1": int(11.2 * GIB)}
    said = text(Outcome.PLACE, on_gpus(1), free_bytes=free)
    assert said == "qwen3-8b on GPU 1: needs 7.9 GiB, 11.2 GiB free"
    free = {"GPU-0": 23 * GIB, "GPU-1": 24 * GIB}
    assert text(Outcome.PLACE, on_gpus(0, 1, gib=43.9), free_bytes=free) == (
        "qwen3-8b on GPUs 0+1: needs 43.9 GiB, 47.0 GiB free"
    )


def test_evicted_models_are_named_with_their_idle_times():
    said = text(Outcome.EVICT, on_gpus(1), free_bytes={"GPU-1": GIB // 2}, evict=("phi-4",), idle=(372.0,))
    assert said == "qwen3-8b on GPU 1: needs 7.9 GiB, 512 MiB free; evicted phi-4, idle 6 min"
    said = text(Outcome.EVICT, on_gpus(1), evict=("phi-4", "bge-m3", "old"), idle=(7200.0, None))
    assert said == "qwen3-8b on GPU 1: needs 7.9 GiB; evicted phi-4, idle 2 h; bge-m3; old"


def test_a_model_on_the_cpu_needs_ram():
    said = text(Outcome.PLACE, on_the_cpu(GIB * 5), free_bytes={"cpu": 12 * GIB})
    assert said == "qwen3-8b on the CPU: needs 5.0 GiB of RAM, 12.0 GiB free"


def test_parts_in_ram_and_a_shortened_context_are_said():
    said = text(Outcome.PLACE, on_gpus(0, ram_gib=20, n_cpu_moe=999))
    assert said == "qwen3-8b on GPU 0: needs 7.9 GiB and 20.0 GiB of RAM"
    said = text(Outcome.PLACE, on_gpus(0, full_ctx_size=65536))
    assert said == "qwen3-8b on GPU 0: needs 7.9 GiB; context 4,096 instead of 65,536"


def test_waits_and_refusals_say_the_reason():
    assert text(Outcome.WAIT, reason="waiting for phi-4 to become idle", evict=("phi-4",)) == (
        "qwen3-8b waits for phi-4 to become idle; asked to finish: phi-4"
    )
    assert text(Outcome.WAIT, reason="the free memory is reserved for earlier requests") == (
        "qwen3-8b waits: the free memory is reserved for earlier requests"
    )
    assert text(Outcome.REFUSE, reason="it needs too much", is_permanent=True) == (
        "qwen3-8b can never be loaded: it needs too much"
    )
    assert text(Outcome.REFUSE, reason="other processes hold it") == "qwen3-8b refused: other processes hold it"
    assert text(Outcome.STOP, reason="it does not respond") == "qwen3-8b stopped: it does not respond"
