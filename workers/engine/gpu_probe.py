"""Asks an engine which GPUs it can use: all at once, and each alone if it lists fewer than there are."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence

from app.entities.gpu import Gpu
from app.entities.launch import EngineFacts
from app.use_cases.engines.cuda import has_code_for
from app.use_cases.launch.command_line import VULKAN_VARIABLE
from app.use_cases.placement.engine_gpus import (
    DeviceList,
    EngineProbe,
    engine_probe,
    gpus_to_ask_for,
    vulkan_probe,
    without_code,
)
from app.use_cases.placement.vulkan_gpus import MIB, ListedDevice, enumeration_sizes, is_enumerated
from workers.engine.probe_process import EngineNotFound, last_lines, probe_output
from workers.server.gpu_errors import find_cuda_error

log = logging.getLogger(__name__)

LIST_DEVICES = "--list-devices"
_DEVICE = re.compile(r" +(\S+): (.*) \((\d{1,9}) MiB")
_NO_DEVICE = "(none)"


def probe_gpus(
    engine: EngineFacts, extra: Mapping[str, str], gpus: Sequence[Gpu], between: Callable[[], None]
) -> EngineProbe:
    """What the engine says about these GPUs now. `extra` is added to its environment, as for a server.

    Never cached: the list is empty while the driver is down. The engine opens every visible GPU, which takes seconds
    and temporarily some hundred MiB of VRAM on each. `between` is called between two starts of the engine.
    """
    probe = _listed_gpus(engine, extra, gpus, between)
    lacking = [gpu for gpu in gpus if not has_code_for(engine.architectures, gpu.compute_capability)]
    return without_code(probe, lacking, gpus, engine.architectures)


def _listed_gpus(
    engine: EngineFacts, extra: Mapping[str, str], gpus: Sequence[Gpu], between: Callable[[], None]
) -> EngineProbe:
    listed, alone = list_devices(engine, extra), dict[str, DeviceList | None]()
    if listed and listed.vulkan:
        enumerated = _enumerate_vulkan(engine, extra, listed, between)
        if found := vulkan_probe(enumerated or listed.vulkan, gpus, is_assumed=not enumerated):
            return found
    for gpu in gpus_to_ask_for(listed, gpus):
        between()
        alone[gpu.uuid] = list_devices(engine, {**extra, "CUDA_VISIBLE_DEVICES": gpu.uuid})
    return engine_probe(engine.version, listed, alone, gpus)


def list_devices(engine: EngineFacts, extra: Mapping[str, str]) -> DeviceList | None:
    """The devices that the engine lists; None if it cannot be asked."""
    if LIST_DEVICES not in engine.flags:
        return None
    try:
        text = probe_output((*engine.command, LIST_DEVICES), extra)
        devices = devices_in_list(text)
        return DeviceList(devices, find_cuda_error(text.splitlines()))
    except (EngineNotFound, ValueError) as error:
        log.warning("cannot list the devices of the engine: %s", error)
        return None


def listed_memory(engine: EngineFacts, extra: Mapping[str, str], uuid: str) -> int:
    """Bytes of this GPU in the engine's list; 0 if it lists none, or cannot be asked. Takes seconds.

    Where NVML reports none, it tells whether the GPU uses the machine's RAM: for an integrated GPU, CUDA's total is
    about the RAM's (llama.cpp, ggml-cuda.cu, b11549).
    """
    listed = list_devices(engine, {**extra, "CUDA_VISIBLE_DEVICES": uuid})
    return next((each.total_mib * MIB for each in listed.cuda), 0) if listed else 0


def _enumerate_vulkan(
    engine: EngineFacts, extra: Mapping[str, str], listed: DeviceList, between: Callable[[], None]
) -> tuple[ListedDevice, ...]:
    """Vulkan's devices in its own order, up to the last one that the engine lists; none if that fails: an engine that
    is told a number which does not exist shows none."""
    for size in enumeration_sizes(listed.vulkan):
        between()
        found = list_devices(engine, {**extra, VULKAN_VARIABLE: ",".join(map(str, range(size)))})
        if found is None or len(found.vulkan) < size:
            break
        if is_enumerated(listed.vulkan, found.vulkan):
            return found.vulkan
    log.warning("the engine's Vulkan devices cannot be enumerated; assuming the order of its list")
    return ()


def devices_in_list(text: str) -> tuple[ListedDevice, ...]:
    """The devices in the output of --list-devices (llama.cpp, common/arg.cpp).

        Available devices:
          CUDA0: NVIDIA GeForce RTX 4090 (24080 MiB, 23500 MiB free)

    Backends print similar lines about their devices before it ("  Device 0: NVIDIA GeForce RTX 4090, ..."). Raises
    ValueError if there is no list, or one in another form: nothing follows from that about the devices.
    """
    before, heading, listed = text.partition("Available devices:\n")
    if not heading:
        raise ValueError(f"{LIST_DEVICES} printed no list{last_lines(before)}")
    rows = [line for line in listed.splitlines() if line.startswith(" ") and line.strip() != _NO_DEVICE]
    found = [match for row in rows if (match := _DEVICE.match(row))]
    devices = [ListedDevice(match[1], match[2], int(match[3])) for match in found]
    if rows and not devices:
        raise ValueError(f"{LIST_DEVICES} printed a list in an unknown form{last_lines(listed)}")
    return tuple(devices)
