"""GPUs: NVML's answer, the driver's device files, and GPUs that should be there. The words are those of /health.

docs/gpus.md lists the states.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from app.entities.gpu import Gpu, GpuSnapshot, GpuState, MissingGpu
from app.entities.placement import CpuFallback, GpuLimits
from app.use_cases.diagnosis.finding import KERNEL_LOG, Finding, Level, good, problem, warning, with_fix_of
from app.use_cases.placement.engine_gpus import ENGINE_COMMAND
from app.use_cases.placement.usable_gpus import unplaceable_reason
from app.use_cases.reporting.phrases import gib_text

MISSING_FIX = f"nvidia-smi; {KERNEL_LOG}; then sudo nvidia-smi --gpu-reset, or reboot"
ON_CPU = "to run on the CPU: gpu.enabled: false"


@dataclass(frozen=True, slots=True)
class DeviceFile:
    """A device file of the driver, below /dev."""

    path: str
    is_accessible: bool
    group: str = ""  # that owns it, if access is the group's


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """`snapshot`: as the engine sees the GPUs, with the evidence that there should be some."""

    snapshot: GpuSnapshot
    devices: Sequence[DeviceFile] = ()
    in_container: bool = False
    is_nouveau_loaded: bool = False
    visible: str | None = None  # CUDA_VISIBLE_DEVICES
    seen_before: Mapping[str, str] = field(default_factory=dict)  # names by UUID, of earlier readings
    history: str = ""  # the file with them
    unmatched: Sequence[str] = ()  # names in the settings that no GPU has
    limits: GpuLimits = field(default_factory=GpuLimits)
    fallback: CpuFallback = CpuFallback.AUTO


def gpu_findings(facts: GpuFacts) -> list[Finding]:
    found = [
        *_of_state(facts),
        *(_of_missing(gpu) for gpu in facts.snapshot.missing),
        *_of_engine(facts.snapshot),
        *(each for gpu in facts.snapshot.gpus for each in _of_gpu(gpu, facts.limits)),
        *_of_unlisted(facts),
        *_of_devices(facts.devices),
        *(warning("settings", line, "nvidia-smi -L lists names and UUIDs") for line in facts.unmatched),
    ]
    return [*found, *_of_fallback(facts, found)]


def _of_state(facts: GpuFacts) -> Iterator[Finding]:
    """What NVML said as a whole."""
    gpus = facts.snapshot
    match gpus.state:
        case GpuState.OK | GpuState.ASLEEP:
            driver = f"driver {gpus.driver_version or 'unknown'}, CUDA {gpus.cuda_version or 'unknown'}"
            if gpus.gpus:
                yield good("GPUs", f"{driver}, NVML, {_listed(gpus.gpus)}")
        case GpuState.DISABLED:
            yield good("GPUs", f"not used: {gpus.problem}")
        case GpuState.NO_PACKAGE | GpuState.VERSION_MISMATCH | GpuState.NOT_FOUND | GpuState.HUNG | GpuState.LOST:
            yield problem("GPUs", gpus.problem, _fix(facts))
        case _ if gpus.missing and not gpus.expected:  # each is a finding of its own
            return
        case _ if gpus.expected:
            evidence = gpus.expected.split("; to run", 1)[0]
            yield problem("GPUs", f"{gpus.problem}; {evidence}", _fix(facts))
        case _ if facts.in_container:
            yield good("GPUs", "none in this container: models run on the CPU", f"if there are some: {_fix(facts)}")
        case _:
            yield good("GPUs", f"none: models run on the CPU ({gpus.problem})")


def _fix(facts: GpuFacts) -> str:
    match facts.snapshot.state:
        case GpuState.NO_PACKAGE:
            return "install nvidia-ml-py into this program's environment: pip install nvidia-ml-py"
        case GpuState.VERSION_MISMATCH:
            return "reboot"
        case GpuState.NOT_FOUND:
            return "unset CUDA_VISIBLE_DEVICES, or set it to GPUs of nvidia-smi -L"
        case GpuState.HUNG:
            return f"{KERNEL_LOG}; if nvidia-smi hangs, too: reboot"
        case GpuState.NO_LIBRARY | GpuState.NO_DRIVER if "Jetson" in facts.snapshot.expected:
            return f"update to JetPack 6 or later; {ON_CPU}"
        case GpuState.NO_LIBRARY if facts.in_container:
            return "start the container with --gpus all (Podman: --device nvidia.com/gpu=all)"
        case GpuState.NO_LIBRARY:
            return f"install the NVIDIA driver; {ON_CPU}"
        case GpuState.NO_DRIVER if facts.is_nouveau_loaded:
            return f"nouveau has the GPU: install the NVIDIA driver, blacklist nouveau, reboot; {ON_CPU}"
        case GpuState.NO_DRIVER:
            return f"sudo modprobe nvidia; if that fails: {KERNEL_LOG}"
        case GpuState.FAILED if facts.in_container:
            return f"restart the container; if nvidia-smi fails outside of it, too: {KERNEL_LOG}"
    return MISSING_FIX


def _listed(gpus: Sequence[Gpu]) -> str:
    names = ", ".join(
        f"{gpu.name} ({gib_text(gpu.total_bytes)}{', unified with RAM' if gpu.is_unified else ''}, "
        f"{gib_text(gpu.free_bytes)} free{_vulkan(gpu)})"
        for gpu in gpus
    )
    return f"{len(gpus)} GPU{'s' if len(gpus) > 1 else ''}: {names}"


def _vulkan(gpu: Gpu) -> str:
    return "" if gpu.vulkan_number is None else f", as Vulkan device {gpu.vulkan_number}"


def _of_missing(gpu: MissingGpu) -> Finding:
    """The engine's words have their advice in brackets."""
    said, _, advice = gpu.problem.removesuffix(")").rpartition(" (")
    is_advice = gpu.problem.startswith("the engine cannot use it") and bool(said)
    text, fix = (said, advice) if is_advice else (gpu.problem, _missing_fix(gpu.problem))
    return problem(f"GPU {gpu.index}", f"{gpu.label}: {text}", fix)


def _missing_fix(words: str) -> str:
    if "--list-devices" in words:
        return "use an engine that was built for this GPU, or exclude it (models.NAME.exclude)"
    if "Vulkan devices" in words:
        return f"update the NVIDIA driver, or use a CUDA build of llama.cpp: {ENGINE_COMMAND}"
    if "built for compute capability" in words:
        return ENGINE_COMMAND
    return MISSING_FIX


def _of_engine(gpus: GpuSnapshot) -> Iterator[Finding]:
    if gpus.engine_problem and gpus.gpus:
        yield with_fix_of(Level.PROBLEM, "engine", gpus.engine_problem)


def _of_gpu(gpu: Gpu, limits: GpuLimits) -> Iterator[Finding]:
    if gpu.problem:
        yield warning(f"GPU {gpu.index}", f"cannot be read just now: {gpu.problem}", "nvidia-smi, if it stays so")
    if gpu.drives_display:
        reserved = gib_text(limits.reserve_of(gpu, gpu.ram_bytes))
        text = f"drives a display: {reserved} is reserved for it, and other GPUs are used first"
        yield warning(f"GPU {gpu.index}", text, f'nothing if that is enough; else gpu.reserve: {{"{gpu.index}": 2GiB}}')
    if gpu.is_vulkan_assumed:
        text = "other GPUs have its name and size: its Vulkan number is assumed from the order of the PCI bus"
        yield warning(f"GPU {gpu.index}", text, "compare the memory in nvidia-smi, or use a CUDA build of llama.cpp")


def _of_unlisted(facts: GpuFacts) -> Iterator[Finding]:
    """GPUs of earlier readings that NVML does not list now, beside others. A card in MIG mode is not listed itself."""
    gpus = facts.snapshot
    if not gpus.gpus or facts.visible is not None or any(gpu.is_mig for gpu in gpus.gpus):
        return
    known = {gpu.uuid for gpu in gpus.gpus} | {gpu.uuid for gpu in gpus.missing}
    for uuid, name in facts.seen_before.items():
        if uuid not in known:
            fix = f"nvidia-smi -L; {KERNEL_LOG}; if it was removed for good, delete {facts.history}"
            yield warning("GPUs", f"{name} ({uuid}) was seen before and is not listed now", fix)


def _of_devices(devices: Sequence[DeviceFile]) -> Iterator[Finding]:
    paths = {device.path for device in devices}
    if "/dev/nvidiactl" in paths and "/dev/nvidia-uvm" not in paths:
        text = "/dev/nvidia-uvm is missing: CUDA finds no device, although nvidia-smi lists it"
        yield problem("device files", text, "sudo nvidia-modprobe -u -c=0")
    denied = [device for device in devices if not device.is_accessible]
    if denied:
        groups = ",".join(dict.fromkeys(device.group for device in denied if device.group))
        text = f"permission denied: {', '.join(device.path for device in denied)}"
        fix = f"sudo usermod -aG {groups} $USER, and log in again" if groups else "ls -l /dev/nvidia*"
        yield problem("device files", text, fix)


def _of_fallback(facts: GpuFacts, found: Sequence[Finding]) -> Iterator[Finding]:
    """That no model can be served, where no other finding says why."""
    if not any(finding.level is Level.PROBLEM for finding in found):
        reason = unplaceable_reason(facts.snapshot, facts.fallback)
        if reason:
            yield problem("GPUs", f"no model can be placed: {reason}", "gpu.cpu_fallback: auto")
