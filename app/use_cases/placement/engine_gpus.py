"""Engine GPUs: which of the GPUs that NVML lists the engine can use, by its own list of devices.

An engine that lists fewer than NVML is asked for each alone, because a list does not say which is missing. An engine
whose CUDA fails is one whose GPUs are lost; only one without CUDA is an engine for the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from app.entities.gpu import EngineView, Gpu, GpuSnapshot
from app.entities.launch import OwnEngine
from app.use_cases.placement.vulkan_gpus import NO_MATCH, ListedDevice, VulkanMatch, match_vulkan

ENGINE_COMMAND = "llama-smart-proxy engine install --cuda"


@dataclass(frozen=True, slots=True)
class DeviceList:
    """The devices that an engine lists besides the CPU: "CUDA0", "Vulkan0", ..."""

    devices: tuple[ListedDevice, ...]
    cuda_error: str = ""  # why CUDA finds none; "" if it does, or if the engine has no CUDA

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(device.name for device in self.devices)

    @property
    def cuda(self) -> tuple[ListedDevice, ...]:
        """The NVIDIA GPUs that it uses through CUDA."""
        return tuple(device for device in self.devices if device.is_cuda)

    @property
    def vulkan(self) -> tuple[ListedDevice, ...]:
        """The devices of Vulkan, if those of CUDA cannot be used instead."""
        return () if self.cuda or self.cuda_error else tuple(device for device in self.devices if device.is_vulkan)


@dataclass(frozen=True, slots=True)
class EngineProbe:
    """What the engine says about the GPUs."""

    problem: str = ""  # why it can use none, whatever the driver does
    unusable: Mapping[str, str] = field(default_factory=dict)  # why it cannot use some, or all of them now; by UUID
    vulkan: VulkanMatch = NO_MATCH  # the GPUs that it uses through Vulkan

    @property
    def is_fine(self) -> bool:
        return not (self.problem or self.unusable)

    def with_cause(self, cause: str) -> EngineProbe:
        """The same, with another reason why it cannot use GPUs that it could use."""
        return replace(self, unusable={uuid: f"{reason}; {cause}" for uuid, reason in self.unusable.items()})


NO_OTHERS: Mapping[OwnEngine, EngineProbe] = {}


def can_use_nvidia_gpus(listed: DeviceList | None) -> bool:
    """Whether an engine was built for NVIDIA GPUs and sees some, or would if CUDA worked. `listed`: by the engine; None
    if it cannot be asked, which says nothing against it."""
    if listed is None or listed.cuda or listed.cuda_error:
        return True
    return any("NVIDIA" in device.description for device in listed.vulkan)


def gpus_to_ask_for(listed: DeviceList | None, gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """The GPUs that the engine has to be asked for alone. `listed`: by the engine, None if that is unknown.

    CUDA shows a process one MIG device at most, so their number says nothing.
    """
    if listed is None or any(gpu.is_mig for gpu in gpus) or len(listed.cuda) >= len(gpus):
        return ()
    return tuple(gpus) if listed.cuda or (listed.cuda_error and len(gpus) > 1) else ()


def engine_probe(
    engine: str, listed: DeviceList | None, alone: Mapping[str, DeviceList | None], gpus: Sequence[Gpu]
) -> EngineProbe:
    """What follows from the engine's lists. `engine`: its version; `alone`: the list for each GPU that was asked for
    alone, by UUID."""
    if listed is None:
        return EngineProbe()
    if alone:
        return EngineProbe(unusable={uuid: _reason(found) for uuid, found in alone.items() if found and not found.cuda})
    if listed.cuda:
        return EngineProbe()
    if listed.cuda_error:
        return EngineProbe(unusable={gpu.uuid: _reason(listed) for gpu in gpus})
    what = f"lists only {', '.join(listed.names)}" if listed.names else "lists no GPU"
    return EngineProbe(
        f"the engine ({engine}) has no CUDA: its --list-devices {what}. "
        f"Next: {ENGINE_COMMAND}, or set engine.binary to a CUDA build of llama.cpp"
    )


def without_code(
    probe: EngineProbe, lacking: Sequence[Gpu], gpus: Sequence[Gpu], architectures: Sequence[str]
) -> EngineProbe:
    """The same of an engine that has no code for some of these GPUs; `architectures`: compute capabilities it has."""
    if not lacking or probe.problem:
        return probe
    built_for = f"the engine was built for compute capability {', '.join(architectures)}"
    if len(lacking) == len(gpus):
        return replace(probe, problem=f"{built_for}, which no GPU here has. Next: {ENGINE_COMMAND}", unusable={})
    reason = f"{built_for} alone: {ENGINE_COMMAND} builds one for all GPUs"
    return replace(probe, unusable={**{gpu.uuid: reason for gpu in lacking}, **probe.unusable})


def vulkan_probe(listed: Sequence[ListedDevice], gpus: Sequence[Gpu], is_assumed: bool = False) -> EngineProbe | None:
    """What follows from the Vulkan devices, all in Vulkan's order, which `is_assumed` or known; None if no GPU is among
    them."""
    match = match_vulkan(listed, gpus)
    if is_assumed:
        match = replace(match, assumed=frozenset(match.numbers))
    reason = f"none of the engine's Vulkan devices has its name and size ({_listed(listed)})"
    missing = {gpu.uuid: reason for gpu in gpus if gpu.uuid not in match.numbers}
    return EngineProbe(unusable=missing, vulkan=match) if match.numbers else None


def _listed(devices: Sequence[ListedDevice]) -> str:
    return ", ".join(f"{each.description} with {each.total_mib} MiB" for each in devices)


def _reason(listed: DeviceList) -> str:
    return f"the engine cannot use it: {listed.cuda_error or 'its --list-devices does not list it'}"


def as_the_engine_sees_them(
    gpus: GpuSnapshot, probe: EngineProbe, own: Mapping[OwnEngine, EngineProbe] = NO_OTHERS
) -> GpuSnapshot:
    """The snapshot without the GPUs that no engine can use: they are missing, with the reason. `probe`: the service's
    engine; `own`: those of models."""
    service = view_of(probe)
    usable = gpus.without(_unusable_for_all(probe, own.values()))
    numbered = tuple(map(service.numbered, usable.gpus))
    views = {None: service} | {engine: view_of(each) for engine, each in own.items()} if own else {}
    return replace(usable, gpus=numbered, engine_problem=probe.problem, views=views)


def _unusable_for_all(probe: EngineProbe, own: Iterable[EngineProbe]) -> dict[str, str]:
    """With the reason of the service's engine."""
    others = [each.unusable for each in own if not each.problem]
    return {uuid: why for uuid, why in probe.unusable.items() if all(uuid in each for each in others)}


def view_of(probe: EngineProbe) -> EngineView:
    return EngineView(probe.problem, probe.unusable, probe.vulkan.numbers, probe.vulkan.assumed)
