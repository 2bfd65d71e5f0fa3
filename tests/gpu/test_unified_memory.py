"""GPUs that use the machine's RAM as their memory: the real nvidia-ml-py, and a fake NVML that answers as reported.

The machine has 16 GiB of RAM, all available (tests/helpers/fixed_ram.py).
"""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from app.entities.gpu import Gpu, GpuSnapshot, GpuState
from tests.gpu.test_nvml import A_DAY, NO_TIME, hardware
from tests.helpers.builders import GIB, MIB
from tests.helpers.fixed_ram import RAM_BYTES
from tests.helpers.stand_in_nvml import Card, StandIn, needs_compiler
from workers.gpu import ram
from workers.gpu.nvml import Nvml

pytestmark = [pytest.mark.integration, needs_compiler]
__all__ = ["hardware"]

RAM_MIB = RAM_BYTES // MIB


def a_spark(*flags: str, **more: int) -> Card:
    return Card("GPU-s", "NVIDIA GB10", capability="12.1", bus="0000000F:01:00.0", flags=flags, **more)


def the_gpu(snapshot: GpuSnapshot) -> Gpu:
    assert (snapshot.state, snapshot.problems) == (GpuState.OK, ())
    (gpu,) = snapshot.gpus
    return gpu


def with_available(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    memory = psutil.virtual_memory()._replace(available=size)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)


def test_a_spark_that_does_not_tell_its_memory_has_the_machines(hardware: StandIn, monkeypatch: pytest.MonkeyPatch):
    """DGX Spark, driver 580.173: NOT_SUPPORTED for memory, while everything else is told."""
    with_available(monkeypatch, 12 * GIB)
    hardware.show(a_spark("no_memory", processes={os.getpid(): 500}))  # type: ignore[arg-type]
    gpu = the_gpu(Nvml().read_gpus())
    assert (gpu.is_unified, gpu.total_bytes, gpu.free_bytes, gpu.used_bytes) == (True, RAM_BYTES, 12 * GIB, 4 * GIB)
    assert (gpu.ram_bytes, gpu.utilization_percent, gpu.processes) == (RAM_BYTES, 7, {os.getpid(): 500 * MIB})


def test_a_spark_that_counts_the_page_cache_as_used_has_what_is_available(
    hardware: StandIn, monkeypatch: pytest.MonkeyPatch
):
    """Total is MemTotal, free is MemFree: 41 GiB were free on a Spark after a download, and 116 available."""
    with_available(monkeypatch, 15 * GIB)
    hardware.show(a_spark(total_mib=RAM_MIB, used_mib=RAM_MIB - 2048))
    gpu = the_gpu(Nvml().read_gpus())
    assert (gpu.is_unified, gpu.total_bytes, gpu.free_bytes) == (True, RAM_BYTES, 15 * GIB)


def test_a_spark_whose_memory_query_fails_needs_no_last_reading(hardware: StandIn):
    hardware.show(a_spark("memory_fails"))
    gpu = the_gpu(Nvml(poll_seconds=NO_TIME).read_gpus())
    assert (gpu.is_unified, gpu.memory_at, gpu.total_bytes) == (True, None, RAM_BYTES)


@pytest.mark.parametrize(
    ("name", "capability"),
    [
        ("Orin (nvgpu)", "8.7"),
        ("NVIDIA Thor", "11.0"),
        ("Xavier", "7.2"),
        ("NVIDIA GB10", "9.9"),
        ("a new name", "12.1"),
    ],
)
def test_a_jetson_or_spark_is_recognized_by_its_capability_or_its_name(hardware: StandIn, name: str, capability: str):
    hardware.show(Card(name=name, capability=capability, flags=("no_memory",)))
    assert the_gpu(Nvml().read_gpus()).is_unified


def test_an_orin_that_tells_nothing_but_its_name_is_recognized(hardware: StandIn):
    flags = "no_memory", "no_utilization", "no_temperature", "no_power", "no_pci", "no_capability", "no_processes"
    hardware.show(Card(name="Orin (nvgpu)", flags=flags))
    assert the_gpu(Nvml().read_gpus()).is_unified


def test_an_unknown_gpu_that_shares_the_cpus_page_tables_and_tells_no_memory_is_one(hardware: StandIn):
    hardware.show(Card(name="NVIDIA GB99", capability="15.0", flags=("no_memory", "ats")))
    assert the_gpu(Nvml().read_gpus()).is_unified


def test_an_unknown_gpu_for_which_the_engine_lists_as_much_memory_as_the_ram_is_one(hardware: StandIn):
    asked: list[str] = []
    nvml = Nvml(listed_memory=lambda uuid: asked.append(uuid) or int(0.98 * RAM_BYTES))  # type: ignore[func-returns-value]
    hardware.show(Card("GPU-n", "a new name", capability="15.0", flags=("no_memory",)))
    assert all(the_gpu(nvml.read_gpus()).is_unified for _ in range(3))
    assert asked == ["GPU-n"]


@pytest.mark.parametrize("size", [0, RAM_BYTES // 2, 5 * RAM_BYTES])
def test_another_size_in_the_engines_list_is_no_sign_and_an_unknown_one_is_asked_for_rarely(
    hardware: StandIn, size: int
):
    asked: list[str] = []
    nvml = Nvml(listed_memory=lambda uuid: asked.append(uuid) or size)  # type: ignore[func-returns-value]
    hardware.show(Card(flags=("no_memory",)))
    assert [nvml.read_gpus().gpus for _ in range(3)] == 3 * [()]
    assert len(asked) == 1


WITH_SIGNS = Card(), Card(flags=("memory_fails",)), a_spark("no_memory"), Card(flags=("no_memory", "ats"))


@pytest.mark.parametrize("card", WITH_SIGNS)
def test_the_engine_is_asked_only_where_there_is_no_other_sign(hardware: StandIn, card: Card):
    hardware.show(card)
    Nvml(listed_memory=lambda uuid: pytest.fail("asked")).read_gpus()


def test_a_gh200_that_tells_its_own_memory_is_a_usual_card(hardware: StandIn):
    hardware.show(Card(name="NVIDIA GH200 480GB", capability="9.0", total_mib=97871, used_mib=500, flags=("ats",)))
    gpu = the_gpu(Nvml().read_gpus())
    assert (gpu.is_unified, gpu.total_bytes) == (False, 97871 * MIB)


def test_a_card_of_the_size_of_the_ram_is_a_usual_card(hardware: StandIn):
    """An RTX 5090 in a machine with 32 GB was taken for unified memory elsewhere."""
    hardware.show(Card(name="NVIDIA GeForce RTX 5090", capability="12.0", total_mib=RAM_MIB, used_mib=1024))
    gpu = the_gpu(Nvml().read_gpus())
    assert (gpu.is_unified, gpu.free_bytes) == (False, RAM_BYTES - GIB)


def test_an_integrated_gpu_with_a_part_of_the_ram_has_that_part(hardware: StandIn):
    hardware.show(a_spark(total_mib=RAM_MIB // 2, used_mib=1024))
    gpu = the_gpu(Nvml().read_gpus())
    assert (gpu.is_unified, gpu.total_bytes) == (False, RAM_BYTES // 2)


def test_a_discrete_card_that_tells_no_memory_does_not_get_the_ram(hardware: StandIn):
    hardware.show(Card(flags=("no_memory",)))
    assert Nvml().read_gpus().gpus == ()


def test_a_spark_and_a_card_beside_it_are_told_apart(hardware: StandIn):
    hardware.show(a_spark("no_memory"), Card("GPU-c", bus="00000001:01:00.0"))
    assert [gpu.is_unified for gpu in Nvml().read_gpus().gpus] == [True, False]


def test_a_cgroups_limit_is_the_memory_of_a_spark(hardware: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    group = tmp_path / "cgroup" / "unit"
    group.mkdir(parents=True)
    for name, text in {"memory.max": f"{8 * GIB}", "memory.high": "max", "memory.current": f"{GIB}"}.items():
        (group / name).write_text(text)
    (tmp_path / "own").write_text("0::/unit\n")
    monkeypatch.setattr(ram, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(ram, "OWN_CGROUP", tmp_path / "own")
    hardware.show(a_spark("no_memory"))
    gpu = the_gpu(Nvml().read_gpus())
    assert (gpu.total_bytes, gpu.free_bytes) == (8 * GIB, 7 * GIB)


def test_ram_that_cannot_be_read_for_a_moment_keeps_the_last_reading(
    hardware: StandIn, monkeypatch: pytest.MonkeyPatch
):
    hardware.show(a_spark("no_memory"))
    kept, lost = Nvml(poll_seconds=A_DAY), Nvml(poll_seconds=NO_TIME)
    before = the_gpu(kept.read_gpus())
    lost.read_gpus()

    def fail() -> None:
        raise OSError("too many open files")

    monkeypatch.setattr("workers.gpu.unified_memory.read_memory", lambda _: fail())
    gpu = the_gpu(kept.read_gpus())
    assert (gpu.total_bytes, gpu.is_unified, gpu.memory_at is None) == (before.total_bytes, True, False)
    assert lost.read_gpus().missing[0].problem == "RAM cannot be read: too many open files"
