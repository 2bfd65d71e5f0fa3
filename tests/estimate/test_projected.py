"""What an engine says before it loads corrects the estimates of other starts, beyond its own rounding."""

from __future__ import annotations

from app.entities.memory import Confidence, DeviceMemory, Estimate
from app.use_cases.estimate.projected import Correction, corrected, correction

MIB = 1024**2


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
