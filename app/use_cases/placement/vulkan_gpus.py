"""Vulkan GPUs: which of NVML's GPUs an engine without CUDA means by its Vulkan devices.

llama.cpp's list has names and sizes, no UUIDs. A device is a GPU if their names are equal and their sizes are close:
Vulkan's size may include the window of the PCI bus. Several alike are taken in the order of the PCI bus, in which
NVIDIA's driver is assumed to list them. Other vendors' devices and those of a CPU match none. The numbers are positions
in Vulkan's own enumeration, by which GGML_VK_VISIBLE_DEVICES selects (llama.cpp, ggml_vk_instance_init). So far tested
only against scripted lists.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.entities.gpu import Gpu

MIB = 1024**2
SIZE_TOLERANCE = 0.1


@dataclass(frozen=True, slots=True)
class ListedDevice:
    """A device in an engine's list."""

    name: str  # "Vulkan0"
    description: str  # "NVIDIA GeForce RTX 4090"
    total_mib: int

    @property
    def is_cuda(self) -> bool:
        return re.fullmatch(r"CUDA\d+", self.name) is not None

    @property
    def is_vulkan(self) -> bool:
        return self.name.startswith("Vulkan")

    def is_like(self, gpu: Gpu) -> bool:
        difference = abs(self.total_mib * MIB - gpu.total_bytes)
        return self.description == gpu.name and difference <= SIZE_TOLERANCE * gpu.total_bytes

    def is_same_as(self, other: ListedDevice) -> bool:
        """Whether it has the same name and size; its number depends on which devices are listed."""
        return (self.description, self.total_mib) == (other.description, other.total_mib)


@dataclass(frozen=True, slots=True)
class VulkanMatch:
    """The number of each GPU that is one of the Vulkan devices, by UUID."""

    numbers: Mapping[str, int]
    assumed: frozenset[str] = frozenset()  # UUIDs of those that are told apart by their order only


NO_MATCH = VulkanMatch({})


def match_vulkan(devices: Sequence[ListedDevice], gpus: Sequence[Gpu]) -> VulkanMatch:
    """`devices`: all that Vulkan enumerates, in its order."""
    numbers: dict[str, int] = {}
    assumed: set[str] = set()
    for gpu in sorted((each for each in gpus if not each.is_mig), key=lambda each: (each.pci_bus or "", each.index)):
        alike = [number for number, device in enumerate(devices) if device.is_like(gpu)]
        left = [number for number in alike if number not in numbers.values()]
        if left:
            numbers[gpu.uuid] = left[0]
            assumed |= {gpu.uuid} if len(alike) > 1 else set()
    return VulkanMatch(numbers, frozenset(assumed))


def enumeration_sizes(listed: Sequence[ListedDevice]) -> range:
    """How many devices to make visible, one after the other, until `is_enumerated`: an engine lists neither a CPU
    that computes Vulkan nor a second driver's device of a GPU, but counts them."""
    return range(max(1, len(listed)), len(listed) + 5)


def is_enumerated(listed: Sequence[ListedDevice], enumerated: Sequence[ListedDevice]) -> bool:
    """Whether all that the engine lists by itself are among the devices that it was made to see."""
    left = list(enumerated)
    for device in listed:
        found = next((each for each in left if each.is_same_as(device)), None)
        if found is None:
            return False
        left.remove(found)
    return True
