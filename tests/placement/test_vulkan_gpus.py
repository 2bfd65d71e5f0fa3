"""Which of NVML's GPUs an engine means by its Vulkan devices."""

from __future__ import annotations

from dataclasses import replace

from app.entities.gpu import Gpu
from app.entities.memory import Confidence
from app.entities.placement import Card
from app.use_cases.estimate.estimate import VULKAN_MARGIN_BYTES, estimate_memory, for_vulkan
from app.use_cases.launch.command_line import VULKAN_VARIABLE, launch_on, launch_plan
from app.use_cases.placement.cards import placement_on
from app.use_cases.placement.vulkan_gpus import ListedDevice, is_enumerated, match_vulkan
from tests.helpers.builders import GIB, a_launch, a_model, an_engine
from tests.helpers.gpu_play import eight_layer_shape

R3090, R4090 = "NVIDIA GeForce RTX 3090", "NVIDIA GeForce RTX 4090"
IGPU, LLVMPIPE = "Intel(R) UHD Graphics 770", "llvmpipe"


def a_gpu(uuid: str, index: int, name: str = R3090, gib: int = 24, **more: object) -> Gpu:
    return replace(Gpu(uuid, index, name, f"0000:0{index + 1}:00.0", total_bytes=gib * GIB), **more)


def listed(*rows: tuple[str, int]) -> list[ListedDevice]:
    return [ListedDevice(f"Vulkan{number}", name, mib) for number, (name, mib) in enumerate(rows)]


def test_devices_are_matched_by_name_and_size():
    """Vulkan lists the slower card first here, and counts the window of the PCI bus as memory."""
    gpus = [a_gpu("GPU-a", 0, R4090), a_gpu("GPU-b", 1), a_gpu("GPU-c", 2, R3090, 12)]
    devices = listed((R3090, 12_288), (IGPU, 24_576), (R3090, 24_822), (R4090, 24_564), (LLVMPIPE, 24_576))
    match = match_vulkan(devices, gpus)
    assert (match.numbers, match.assumed) == ({"GPU-a": 3, "GPU-b": 2, "GPU-c": 0}, frozenset())


def test_several_alike_are_taken_in_the_order_of_the_pci_bus_and_it_is_said():
    gpus = [a_gpu("GPU-b", 1), a_gpu("GPU-a", 0), a_gpu("GPU-c", 2, R4090)]
    match = match_vulkan(listed((R3090, 24_576), (R4090, 24_564), (R3090, 24_576)), gpus)
    assert match.numbers == {"GPU-a": 0, "GPU-b": 2, "GPU-c": 1}
    assert match.assumed == {"GPU-a", "GPU-b"}


def test_other_vendors_devices_other_drivers_and_other_sizes_match_no_gpu():
    devices = listed((IGPU, 24_576), (LLVMPIPE, 24_576), (f"{R3090} (NVK GA102)", 24_576), (R3090, 8_192))
    assert match_vulkan(devices, [a_gpu("GPU-a", 0)]).numbers == {}
    assert match_vulkan(listed((R3090, 24_576)), [a_gpu("MIG-a", 0, is_mig=True)]).numbers == {}


def test_the_enumeration_is_complete_when_it_has_all_that_the_engine_lists():
    two = listed((R3090, 24_576), (R3090, 24_576))
    assert not is_enumerated(two, listed((LLVMPIPE, 1), (R3090, 24_576)))
    assert is_enumerated(two, listed((LLVMPIPE, 1), (R3090, 24_576), (R3090, 24_576)))


def a_card(uuid: str, index: int, number: int | None) -> Card:
    return Card(uuid, R3090, index, 24 * GIB, 24 * GIB, vulkan_number=number)


def test_a_split_is_in_the_order_of_the_visible_devices():
    """NVML's GPUs 1 and 0, which Vulkan counts as 0 and 2: Vulkan0 is then GPU 1 and takes 10 layers."""
    cards = [a_card("GPU-b", 1, 0), a_card("GPU-a", 0, 2)]
    options = replace(a_launch().options, devices=2)
    placement = placement_on(cards, (10, 23), options, estimate_memory(eight_layer_shape(), options))
    assert (placement.device, placement.tensor_split) == ("vulkan:1,0", (10, 23))
    model = replace(a_model(), launch=launch_on(a_launch(), placement))
    plan = launch_plan(model, an_engine(), {VULKAN_VARIABLE: "7"}, api_key="", port=0)
    assert (plan.env[VULKAN_VARIABLE], plan.env["CUDA_VISIBLE_DEVICES"]) == ("0,2", "")
    assert plan.argv[plan.argv.index("--tensor-split") + 1] == "10,23"


def test_an_engine_with_cuda_gets_uuids_and_no_vulkan_numbers():
    options = replace(a_launch().options, devices=1)
    placement = placement_on([a_card("GPU-a", 0, None)], (9,), options, estimate_memory(eight_layer_shape(), options))
    plan = launch_plan(replace(a_model(), launch=launch_on(a_launch(), placement)), an_engine(), {}, "", 0)
    assert (placement.device, plan.env["CUDA_VISIBLE_DEVICES"]) == ("cuda:0", "GPU-a")
    assert VULKAN_VARIABLE not in plan.env


def test_an_estimate_for_vulkan_has_low_confidence_and_a_margin():
    options = replace(a_launch().options, devices=1)
    known = estimate_memory(eight_layer_shape(), options)
    found = for_vulkan(known)
    assert (found.confidence, found.notes) == (Confidence.LOW, (*known.notes, found.notes[-1]))
    assert found.booked_bytes - known.booked_bytes == round(0.1 * known.devices[0].total_bytes) + VULKAN_MARGIN_BYTES
    on_cpu = estimate_memory(eight_layer_shape(), replace(options, devices=0))
    assert for_vulkan(on_cpu) == on_cpu
