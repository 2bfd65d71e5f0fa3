"""Ten minutes of GPU figures."""

from __future__ import annotations

from app.entities.gpu import Gpu, GpuSnapshot, GpuState
from tests.helpers.builders import replace
from workers.telemetry.gpu_trends import POINTS, GpuTrends

GPU = Gpu("GPU-a", 0, "card", used_bytes=100, utilization_percent=50, power_watts=200.0)


def a_reading(at: float, poll_seconds: float = 1.0, **figures: float | None) -> GpuSnapshot:
    return GpuSnapshot(GpuState.OK, at, (replace(GPU, **figures),), poll_seconds=poll_seconds)  # type: ignore[arg-type]


def utilization(trends: GpuTrends, now: float) -> list[float | None]:
    return list(trends.trends(now)["GPU-a"]["utilization_percent"])


def test_a_point_is_the_average_of_five_seconds_and_the_last_use_of_memory():
    trends = GpuTrends()
    for second in range(1000, 1011):
        trends.add(a_reading(second, utilization_percent=second - 1000, used_bytes=second, power_watts=None))
    shown = trends.trends(1010.0)["GPU-a"]
    assert {name: points[-2:] for name, points in shown.items()} == {
        "utilization_percent": [2.0, 7.0],
        "used_bytes": [1004, 1009],
        "power_watts": [None, None],
    }
    assert {len(points) for points in shown.values()} == {POINTS}
    assert set(utilization(trends, 1010.0)[:-2]) == {None}


def test_what_was_not_read_is_a_gap():
    trends = GpuTrends()
    for second in (*range(1000, 1006), *range(1015, 1021)):
        trends.add(a_reading(second))
    assert utilization(trends, 1020.0)[-4:] == [50.0, 50.0, None, 50.0]


def test_gpus_that_are_asleep_or_hang_have_no_points():
    trends = GpuTrends()
    trends.add(a_reading(1000.0))
    trends.add(a_reading(1005.0).asleep())
    trends.add(replace(a_reading(1010.0), state=GpuState.HUNG))
    trends.add(a_reading(1015.0))
    assert utilization(trends, 1015.0)[-3:] == [50.0, None, None]


def test_a_slow_poll_leaves_no_gaps():
    trends = GpuTrends()
    for second in (1000, 1020, 1040):
        trends.add(a_reading(second, poll_seconds=20.0, utilization_percent=second - 1000))
    assert utilization(trends, 1040.0)[-8:] == [0.0] * 4 + [20.0] * 4


def test_memory_is_bounded_and_a_gpu_that_is_gone_is_forgotten():
    trends = GpuTrends()
    for second in range(0, 3000, 5):
        trends.add(a_reading(float(second)))
    assert set(utilization(trends, 2995.0)) == {50.0}
    others = replace(a_reading(0.0), gpus=(replace(GPU, uuid="GPU-b"),))
    for second in range(3000, 4000, 5):
        trends.add(replace(others, at=float(second)))
    assert set(trends.trends(4000.0)) == {"GPU-b"}
