"""What an engine says before it loads corrects the estimates of other starts, beyond its own rounding."""

from __future__ import annotations

from app.entities.launch import ModelOptions
from app.entities.memory import Confidence, DeviceMemory, Estimate
from app.use_cases.estimate.companions import NO_COMPANIONS
from app.use_cases.estimate.largest_context import largest_contexts
from app.use_cases.estimate.projected import Correction, corrected, correction
from bench.estimate import shape_of

MIB = 1024**2


def test_the_largest_context_is_that_of_the_corrected_estimate():
    shape = shape_of("qwen3-8b", "Q4_K_M")
    options = ModelOptions(ctx_size=4096, devices=2)  # not exact

    def largest(by: Correction) -> int:
        return largest_contexts(shape, options, NO_COMPANIONS, (4096 * MIB,), by)[0].ctx_size

    plain, halved = largest(Correction()), largest(Correction(context=2.0))
    assert 0.45 * plain < halved < 0.55 * plain


def on_cpu(weights_mib: int, context_mib: int) -> Estimate:
    return Estimate((), DeviceMemory(weights_mib * MIB, context_mib * MIB, 50 * MIB), Confidence.LOW)


def test_what_differs_by_rounding_is_confirmed():
    assert correction(on_cpu(374, 48), on_cpu(373, 48)) == Correction()


def test_a_context_that_the_engine_knows_better_is_as_large_on_each_gpu():
    # 97 MiB said and 3 for its rounding instead of 50: twice as much
    found = correction(on_cpu(374, 50), on_cpu(374, 97))
    split = Estimate((DeviceMemory(200, 30, 5), DeviceMemory(174, 20, 5)), DeviceMemory(), Confidence.LOW)
    after = corrected(split, found)
    assert [device.context_bytes for device in after.devices] == [60, 40]
    assert [device.weights_bytes for device in after.devices] == [200, 174]
    assert after.notes == ("the engine corrects context by +100.0 %",) and after.confidence is Confidence.LOW
