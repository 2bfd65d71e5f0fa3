"""The limits of single GPUs, and the names that settings give to GPUs."""

from __future__ import annotations

import pytest

from app.entities.gpu import Gpu, GpuSnapshot, GpuState, MissingGpu
from app.entities.placement import DEFAULT_RESERVE_BYTES, Card, GpuLimits
from app.use_cases.placement.cards import unmatched_names
from app.use_cases.placement.ledger import Ledger
from tests.helpers.builders import GIB, MIB, memory
from workers.pool.gpu_names import GpuNamesCheck

A = Gpu("GPU-a", 0, "RTX 4090", total_bytes=24 * GIB, free_bytes=20 * GIB)
B = Gpu("GPU-b", 1, "RTX 3060", total_bytes=12 * GIB, free_bytes=12 * GIB)


def test_each_gpu_has_its_own_reserve_and_the_others_have_the_default():
    limits = GpuLimits(reserves={"GPU-a": 2 * GIB})
    cards = Ledger(GpuSnapshot(GpuState.OK, 0.0, (A, B)), memory(at=0.0), (), limits).cards()
    assert [(card.usable_bytes, card.total_bytes, card.reserve_bytes) for card in cards] == [
        (18 * GIB, 22 * GIB, 2 * GIB),
        (12 * GIB - 512 * MIB, 12 * GIB - 512 * MIB, 512 * MIB),
    ]


@pytest.mark.parametrize(
    ("reserves", "size"),
    [
        ({"RTX 4090": 1, "0": 2, "GPU-a": 3}, 3),
        ({"RTX 4090": 1, "0": 2}, 2),
        ({"RTX 4090": 1, "1": 2}, 1),
        ({"GPU-b": 1, "GPU": 2}, DEFAULT_RESERVE_BYTES),
    ],
)
def test_of_several_names_of_a_gpu_the_most_specific_counts(reserves: dict[str, int], size: int):
    assert GpuLimits(reserves=reserves).reserve_of(A) == size
    assert GpuLimits(reserves=reserves).reserve_of(Card("GPU-a", "RTX 4090", 0, 0, 0)) == size


def test_one_size_is_for_every_gpu():
    assert [GpuLimits(reserve_bytes=0).reserve_of(gpu) for gpu in (A, B)] == [0, 0]


def test_a_name_that_no_gpu_has_is_reported_with_those_there_are():
    named = {"gpu.order": ("GPU-a", "1"), "models.m.exclude": ("RTX 3060", "RTX 3090")}
    assert unmatched_names(named, (A, B)) == (
        "models.m.exclude: 'RTX 3090' matches no GPU; there are: 0 (RTX 4090, GPU-a), 1 (RTX 3060, GPU-b)",
    )


def test_unmatched_names_are_logged_once_for_each_set_of_gpus(caplog: pytest.LogCaptureFixture):
    check, lost = GpuNamesCheck({"gpu.reserve": ("GPU-b", "2")}), MissingGpu("GPU-b", 1, "RTX 3060", "lost")
    for snapshot in (
        GpuSnapshot(GpuState.NO_DRIVER, 0.0),
        *2 * [GpuSnapshot(GpuState.OK, 1.0, (A, B))],
        GpuSnapshot(GpuState.OK, 2.0, (A,), missing=(lost,)),
    ):
        check.check(snapshot)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(";")[0] for line in lines] == 2 * ["gpu.reserve: '2' matches no GPU"]
