"""The devices that an engine can compute on, besides the CPU, from its own --list-devices."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from types import MappingProxyType

from app.entities.launch import EngineFacts
from workers.engine.probe_process import EngineNotFound, last_lines, probe_output

log = logging.getLogger(__name__)

_LIST_DEVICES = "--list-devices"
_DEVICE = re.compile(r" +(\S+): .*MiB")
_NO_DEVICE = "(none)"


def probe_devices(engine: EngineFacts, extra: Mapping[str, str] = MappingProxyType({})) -> tuple[str, ...] | None:
    """The devices besides the CPU that the engine can use now: "CUDA0", "Vulkan0", ... None if unknown.

    `extra` is added to its environment, as for a server. Never cached: the list is empty while the driver is down. The
    engine opens every visible GPU, which takes seconds and temporarily some hundred MiB of VRAM on each.
    """
    if _LIST_DEVICES not in engine.flags:
        return None
    try:
        return devices_in_list(probe_output((*engine.command, _LIST_DEVICES), extra))
    except (EngineNotFound, ValueError) as error:
        log.warning("cannot list the devices of the engine: %s", error)
        return None


def devices_in_list(text: str) -> tuple[str, ...]:
    """The devices in the output of --list-devices (llama.cpp, common/arg.cpp).

        Available devices:
          CUDA0: NVIDIA GeForce RTX 4090 (24080 MiB, 23500 MiB free)

    Backends print similar lines about their devices before it ("  Device 0: NVIDIA GeForce RTX 4090, ..."). Raises
    ValueError if there is no list, or one in another form: nothing follows from that about the devices.
    """
    before, heading, listed = text.partition("Available devices:\n")
    if not heading:
        raise ValueError(f"{_LIST_DEVICES} printed no list{last_lines(before)}")
    rows = [line for line in listed.splitlines() if line.startswith(" ") and line.strip() != _NO_DEVICE]
    devices = [found[1] for row in rows if (found := _DEVICE.match(row))]
    if rows and not devices:
        raise ValueError(f"{_LIST_DEVICES} printed a list in an unknown form{last_lines(listed)}")
    return tuple(devices)


def cuda_problem(engine: EngineFacts, extra: Mapping[str, str] = MappingProxyType({})) -> str:
    """Why the engine cannot use the NVIDIA GPUs; "" if it can, or if that is unknown (see `probe_devices`)."""
    devices = probe_devices(engine, extra)
    if devices is None or any(re.fullmatch(r"CUDA\d+", device) for device in devices):
        return ""
    listed = f"lists only {', '.join(devices)}" if devices else "lists no GPU"
    return (
        f"the engine ({engine.version}) has no CUDA: its {_LIST_DEVICES} {listed}; "
        "install a CUDA build of llama.cpp or set engine.binary to one"
    )
