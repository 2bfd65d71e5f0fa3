"""Which GPUs CUDA_VISIBLE_DEVICES selects."""

from __future__ import annotations

import pytest

from app.entities.gpu import Gpu
from app.use_cases.placement.usable_gpus import hides_all_gpus, visible_gpus

A = Gpu("GPU-aa11", 0, "RTX 4090")
B = Gpu("GPU-ab22", 1, "RTX 3060")
C1 = Gpu("MIG-c1", 2, "A100 MIG 3g.40gb", is_mig=True)
C2 = Gpu("MIG-c2", 2, "A100 MIG 3g.40gb", is_mig=True)
ALL = (A, B, C1, C2)


@pytest.mark.parametrize(
    ("value", "selected"),
    [
        (None, ALL),
        ("0", (A,)),
        ("1,0", (B, A)),
        (" 1 , 0 ", (B, A)),
        ("+1", (B,)),
        ("1gpu,0x", (B, A)),
        ("2", (C1, C2)),
        ("0,7,1", (A,)),
        ("7,0", ()),
        ("0,-1,1", (A,)),
        ("0,,1", (A,)),
        ("0,GPU-ab22", (A,)),
        ("0,0", ()),
        ("", ()),
        ("-1", ()),
        ("none", ()),
        ("NoDevFiles", ()),
        ("GPU-aa11", (A,)),
        ("GPU-ab,GPU-aa", (B, A)),
        ("GPU-a", ()),
        ("GPU-aa,GPU-a,GPU-ab", (A,)),
        ("GPU-aa,GPU-nowhere,GPU-ab", (A,)),
        ("GPU-aa,GPU-aa11", ()),
        ("GPU-aa,1", (A,)),
        ("MIG-c2", (C2,)),
        ("MIG-c2,MIG-c1", (C2, C1)),
        ("MIG-c2,GPU-aa", (C2,)),
        ("gpu-aa", ()),
    ],
)
def test_a_list_is_parsed_as_by_cuda(value: str | None, selected: tuple[Gpu, ...]):
    assert visible_gpus(value, ALL) == selected


@pytest.mark.parametrize("value", ["", " ", "-1", "none", "NoDevFiles", ",0"])
def test_a_value_that_hides_all_gpus_is_recognized_without_nvml(value: str):
    assert hides_all_gpus(value)
    assert visible_gpus(value, ALL) == ()


@pytest.mark.parametrize("value", [None, "0", " 3", "GPU-x", "MIG-x", "0,-1"])
def test_a_value_that_may_name_a_gpu_does_not_hide_all(value: str | None):
    assert not hides_all_gpus(value)
