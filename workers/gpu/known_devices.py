"""KnownDevices: every device that NVML has listed, and whether it can be used now.

A device that cannot be read for a moment keeps its last reading; after that it is missing, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from workers.gpu.device import Device
from workers.gpu.nvml_errors import LOST, UNLISTED

KEPT_POLLS = 2.5  # two, which are never quite punctual
_OF_MEMORY = ("total_bytes", "free_bytes", "used_bytes", "processes", "graphics_processes")


@dataclass(frozen=True, slots=True)
class NvmlListing:
    """What NVML lists at one moment."""

    at: float  # monotonic seconds
    devices: list[Device] = field(default_factory=list)
    cards: set[str] = field(default_factory=set)  # that responded, including those partitioned by MIG
    failures: dict[int, str] = field(default_factory=dict)  # by index: why a card could not be read


class KnownDevices:
    """Written by the thread `gpus` alone."""

    def __init__(self, poll_seconds: float) -> None:
        self._kept_seconds = KEPT_POLLS * poll_seconds
        self._devices: dict[str, Device] = {}  # by UUID
        self._last_read: dict[str, Device] = {}  # by UUID: with its memory

    @property
    def indices(self) -> set[int]:
        return {device.gpu.index for device in self._devices.values()}

    def update(self, listing: NvmlListing) -> tuple[Device, ...]:
        """The devices of this listing, then those that it lacks."""
        self._last_read |= {device.gpu.uuid: device for device in listing.devices if not device.gpu.problem}
        listed = [self._with_memory(device, listing.at) for device in listing.devices]
        uuids = {device.gpu.uuid for device in listed}
        # A MIG device whose card responds is not lost: the card was repartitioned.
        absent = [d for u, d in self._devices.items() if u not in uuids and d.card not in listing.cards]
        devices = (*listed, *(self._despite_failure(device, listing) for device in absent))
        self._devices = {device.gpu.uuid: device for device in devices}
        return devices

    def _with_memory(self, device: Device, at: float) -> Device:
        if not device.gpu.problem:
            return device
        if not (last := self._recently_read(device, at)):
            return replace(device, missing=device.gpu.problem)
        memory = {name: getattr(last.gpu, name) for name in _OF_MEMORY}
        return replace(device, gpu=replace(device.gpu, memory_at=last.at, **memory))

    def _despite_failure(self, device: Device, listing: NvmlListing) -> Device:
        """A device that was not listed. If a card failed at another index, each of the absent may be that one."""
        failure = listing.failures.get(device.gpu.index, "")
        if failure not in ("", LOST) and (last := self._recently_read(device, listing.at)):
            return replace(last, gpu=replace(last.gpu, problem=failure, memory_at=last.at))
        return replace(device, missing=failure or next(iter(listing.failures.values()), UNLISTED))

    def _recently_read(self, device: Device, at: float) -> Device | None:
        last = self._last_read.get(device.gpu.uuid)
        return last if last and at - last.at <= self._kept_seconds else None


def failed_since_start(failures: dict[int, str], absent: list[Device]) -> Iterator[tuple[int, str]]:
    """Index and reason of the cards that have failed since before the service started: the failures that no absent
    device accounts for."""
    indices = sorted(set(failures) - {device.gpu.index for device in absent})
    for index in indices[: max(0, len(failures) - len({device.card for device in absent}))]:
        yield index, failures[index]
