"""The engine: which llama-server would run, what it lists, and which libraries it lacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from app.entities.launch import EngineFacts, EngineKind
from app.use_cases.diagnosis.finding import KERNEL_LOG, Finding, Level, good, problem, warning, with_fix_of
from app.use_cases.placement.engine_gpus import DeviceList


@dataclass(frozen=True, slots=True)
class EngineDiagnosis:
    """`devices`: None if the engine was not asked, or could not be."""

    engine: EngineFacts | None
    missing: str = ""  # why there is none
    notes: Sequence[str] = ()  # logged while it was looked for and asked
    devices: DeviceList | None = None
    unanswered: str = ""  # why it was asked in vain
    unresolved: Mapping[str, Sequence[str]] = field(default_factory=dict)  # libraries that a file of it needs
    assumes_gpu: bool = False  # engine.assume_gpu
    libraries: Mapping[str, bool] = field(default_factory=dict)  # libcuda.so.1, libvulkan.so.1: whether they load


def engine_findings(report: EngineDiagnosis, has_gpus: bool) -> list[Finding]:
    """`has_gpus`: whether NVML lists some."""
    if report.engine is None:
        return [with_fix_of(Level.PROBLEM, "engine", report.missing), *_notes(report)]
    return [
        good("engine", f"{_name(report.engine)}, {_build(report)}"),
        *_notes(report),
        *_unanswered(report),
        *_unasked(report, has_gpus),
        *_unresolved(report, has_gpus),
        *_libraries(report, has_gpus),
    ]


def gpu_use_findings(report: EngineDiagnosis) -> list[Finding]:
    """Of a model's own engine, where there are GPUs that the model may use. Of the service's, the GPUs say it."""
    devices = report.devices
    if devices is None or devices.cuda or devices.vulkan:
        return []
    if devices.cuda_error:
        return [problem("engine", f"it can use no GPU now: {devices.cuda_error}", "nvidia-smi")]
    return [warning("engine", "it can use no GPU, so its models run on the CPU", "a CUDA build, or n_gpu_layers: 0")]


def _name(engine: EngineFacts) -> str:
    if engine.kind is EngineKind.EMBEDDED:
        return f"the embedded one, {engine.version}"
    return f"llama-server {engine.version} ({engine.command[-1]})"


def _build(report: EngineDiagnosis) -> str:
    devices = report.devices
    if devices is None:
        return "its devices are not known"
    listed = ", ".join(f"{each.name} ({each.description})" for each in devices.devices)
    kind = "CUDA" if devices.cuda or devices.cuda_error else "Vulkan" if devices.vulkan else "CPU"
    return f"{kind} build, lists {listed or 'no GPU'}"


def _notes(report: EngineDiagnosis) -> Iterator[Finding]:
    for note in report.notes:
        yield warning("engine", note, "engine.binary: the path of a llama-server that works")


def _unanswered(report: EngineDiagnosis) -> Iterator[Finding]:
    if report.unanswered:
        yield problem("engine", report.unanswered, f"nvidia-smi; {KERNEL_LOG}; if they hang, too: reboot")


def _unasked(report: EngineDiagnosis, has_gpus: bool) -> Iterator[Finding]:
    if not has_gpus:
        return
    if report.assumes_gpu:
        text = "engine.assume_gpu: it is not asked for its GPUs; each load is checked instead"
        yield warning("engine", text, "engine.assume_gpu: false, unless its --list-devices does not work")
    elif report.devices is None and not (report.notes or report.unanswered):
        text = "it has no --list-devices, so it is not known whether it can use GPUs; each load is checked instead"
        yield warning("engine", text, "a newer build of llama.cpp")


def _unresolved(report: EngineDiagnosis, has_gpus: bool) -> Iterator[Finding]:
    """llama.cpp skips a backend whose libraries are missing, without a word."""
    for file, names in report.unresolved.items():
        text = f"{file} needs {', '.join(names)}, not found: the engine ignores this backend"
        fix = "install the CUDA runtime of that version, or add its folder: engine.env: {LD_LIBRARY_PATH: DIR}"
        is_cuda = "cuda" in file.rpartition("/")[2]
        yield (problem if is_cuda and has_gpus else warning)("engine", text, fix if is_cuda else "install them")


def _libraries(report: EngineDiagnosis, has_gpus: bool) -> Iterator[Finding]:
    lacking = [name for name, loads in report.libraries.items() if not loads]
    if has_gpus and "libcuda.so.1" in lacking:
        fix = "install the driver's CUDA library; in a container: NVIDIA_DRIVER_CAPABILITIES=compute,utility"
        yield problem("CUDA", "libcuda.so.1 cannot be loaded, although NVML can", fix)
    if any("vulkan" in file for file in (*report.unresolved, *_backends(report))) and "libvulkan.so.1" in lacking:
        yield warning("Vulkan", "libvulkan.so.1 cannot be loaded", "sudo apt install libvulkan1")


def _backends(report: EngineDiagnosis) -> Sequence[str]:
    return report.engine.files if report.engine else ()
