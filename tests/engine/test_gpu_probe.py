"""The engine is asked which GPUs it can use."""

from __future__ import annotations

from pathlib import Path

from app.entities.gpu import Gpu
from tests.helpers.fake_llama_server import install_fake
from workers.engine.binary import find_engine
from workers.engine.gpu_probe import listed_memory, probe_gpus
from workers.gpu.driver_update import is_driver_replaced

CARDS = tuple(Gpu(f"GPU-{name}", number, "card") for number, name in enumerate("abc"))


def test_gpus_that_the_engine_does_not_list_are_found_by_asking_for_each_alone(tmp_path: Path):
    engine, pauses = find_engine(str(install_fake(tmp_path, FAKE_CARDS="GPU-a,GPU-c"))), list[None]()
    probe = probe_gpus(engine, {}, CARDS, lambda: pauses.append(None))
    (uuid, reason), *others = probe.unusable.items()
    assert (uuid, others, len(pauses)) == ("GPU-b", [], 3)
    assert "failed to initialize CUDA: no CUDA-capable device is detected (" in reason


def test_an_engine_that_lists_all_gpus_is_asked_once(tmp_path: Path):
    engine, pauses = find_engine(str(install_fake(tmp_path, FAKE_CARDS="GPU-a,GPU-b,GPU-c"))), list[None]()
    assert probe_gpus(engine, {}, CARDS, lambda: pauses.append(None)).is_fine
    assert pauses == []


def test_vulkan_devices_are_numbered_as_vulkan_enumerates_them(tmp_path: Path):
    """The engine does not list the CPU that comes first, but counts it in GGML_VK_VISIBLE_DEVICES."""
    cards = [Gpu(f"GPU-{name}", n, "NVIDIA RTX", total_bytes=8 * 2**30) for n, name in enumerate("abc")]
    scripted = "llvmpipe:16000,NVIDIA RTX:8192,Intel:16000,NVIDIA RTX:8192"
    engine = find_engine(str(install_fake(tmp_path, FAKE_VULKAN=scripted)))
    probe = probe_gpus(engine, {}, cards, lambda: None)
    assert (probe.problem, dict(probe.vulkan.numbers)) == ("", {"GPU-a": 1, "GPU-b": 3})
    assert probe.vulkan.assumed == {"GPU-a", "GPU-b"}
    assert list(probe.unusable) == ["GPU-c"] and "Vulkan devices has its name and size" in probe.unusable["GPU-c"]


def test_a_vulkan_whose_order_cannot_be_had_is_assumed_to_have_that_of_the_list(tmp_path: Path):
    engine = find_engine(str(install_fake(tmp_path, FAKE_VULKAN="card:0", FAKE_VULKAN_FAILS="1")))
    probe = probe_gpus(engine, {}, CARDS[:1], lambda: None)
    assert (dict(probe.vulkan.numbers), probe.vulkan.assumed) == ({"GPU-a": 0}, {"GPU-a"})


def test_an_engine_whose_vulkan_has_no_nvidia_gpu_is_one_for_the_cpu(tmp_path: Path):
    engine = find_engine(str(install_fake(tmp_path, FAKE_VULKAN="llvmpipe:16000,Intel:16000")))
    probe = probe_gpus(engine, {}, CARDS, lambda: None)
    assert "has no CUDA: its --list-devices lists only Vulkan0" in probe.problem


def test_an_engine_that_cannot_be_asked_is_trusted(tmp_path: Path):
    assert probe_gpus(find_engine(str(install_fake(tmp_path))), {}, CARDS, lambda: None).is_fine


def test_the_memory_of_one_gpu_is_read_from_the_engines_list(tmp_path: Path):
    engine = find_engine(str(install_fake(tmp_path, FAKE_CARDS="GPU-a,GPU-b")))
    assert listed_memory(engine, {}, "GPU-b") == 24080 * 1024**2
    assert listed_memory(engine, {}, "GPU-c") == 0, "CUDA does not find it"
    assert listed_memory(find_engine(str(install_fake(tmp_path / "old"))), {}, "GPU-a") == 0, "it has no such list"


def test_a_driver_that_was_replaced_is_seen_in_the_maps_of_this_process(tmp_path: Path):
    maps = tmp_path / "maps"
    row = "7f0000000000-7f0000001000 r-xp 00000000 08:01 1 /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.10"
    maps.write_text(f"{row}\n7f0000002000-7f0000003000 r--p 00000000 08:01 2 /usr/lib/other.so (deleted)\n")
    assert not is_driver_replaced(maps)
    maps.write_text(f"{row} (deleted)\n")
    assert is_driver_replaced(maps)
    assert not is_driver_replaced(tmp_path / "absent")
