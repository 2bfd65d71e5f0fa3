"""The part of `doctor` that asks NVML and the engine: either may hang in the driver."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from app.entities.gpu import GpuSnapshot, GpuState, NamedGpu
from app.entities.launch import EngineFacts
from app.settings.schema import Settings
from app.use_cases.diagnosis.engine import EngineDiagnosis, engine_findings
from app.use_cases.diagnosis.finding import Finding
from app.use_cases.diagnosis.gpus import GpuFacts, gpu_findings
from app.use_cases.placement.cards import unmatched_names
from workers.builders import gpus_at_start
from workers.diagnosis import gpus
from workers.diagnosis.bounded import BoundedCall, CallFailed
from workers.diagnosis.engine import loadable_libraries, look_for_engine, unresolved_libraries
from workers.folders import cache_folder, state_folder
from workers.gpu.expected_gpus import GpuHistory

# An engine is run twice to find it, 20 s each at most, and once or more for its devices; of several, one may hang.
GPU_SECONDS, ENGINE_SECONDS, DEVICE_SECONDS, LIBRARY_SECONDS = 10.0, 65.0, 90.0, 20.0


def diagnose_gpus(settings: Settings) -> tuple[list[Finding], str, bool]:
    """The findings about GPUs and the engine, the engine's version ("" without one), and whether NVML lists GPUs."""
    visible, history = os.environ.get("CUDA_VISIBLE_DEVICES"), GpuHistory(state_folder() / "gpus.json")
    search = BoundedCall(
        partial(look_for_engine, settings.engine.binary, cache_folder(), settings.engine.env), ENGINE_SECONDS
    )
    snapshot = gpus_at_start(settings)
    if snapshot.state is not GpuState.DISABLED:
        snapshot = _machine_gpus(partial(gpus.read_machine_gpus, visible, history))
    has_gpus, report = bool(snapshot.gpus), found_engine(search, settings.engine.env, settings.engine.assume_gpu)
    if report.engine and snapshot.state is not GpuState.HUNG and not settings.engine.assume_gpu:
        snapshot, report = _as_engine_says(report, report.engine, settings, snapshot, visible, history)
    facts = GpuFacts(
        snapshot=snapshot,
        devices=gpus.device_files(),
        in_container=gpus.is_in_container(),
        is_nouveau_loaded=gpus.is_nouveau_loaded(),
        visible=visible,
        seen_before=history.seen,
        history=str(history.path),
        unmatched=_unmatched(settings, snapshot),
        limits=settings.gpu_limits(),
        fallback=settings.gpu.cpu_fallback,
    )
    version = report.engine.version if report.engine else ""
    return [*gpu_findings(facts), *engine_findings(report, has_gpus)], version, has_gpus


def _machine_gpus(read: Callable[[], GpuSnapshot]) -> GpuSnapshot:
    try:
        return BoundedCall(read, GPU_SECONDS).result()[0]
    except CallFailed as error:
        return GpuSnapshot(GpuState.HUNG, time.monotonic(), problem=f"NVML does not respond: {error}")


def found_engine(
    search: BoundedCall[tuple[EngineFacts | None, str]], env: Mapping[str, str], assumes_gpu: bool
) -> EngineDiagnosis:
    """What was found, and which libraries it lacks."""
    try:
        (engine, missing), notes = search.result()
    except CallFailed as error:
        return EngineDiagnosis(None, f"llama-server: {error}")
    report = EngineDiagnosis(engine, missing, notes, assumes_gpu=assumes_gpu)
    if engine is None:
        return report
    try:
        libraries = BoundedCall(partial(_libraries, engine, env), LIBRARY_SECONDS).result()[0]
    except CallFailed:  # what the engine itself says of its devices matters more
        return report
    return replace(report, unresolved=libraries[0], libraries=libraries[1])


def _libraries(engine: EngineFacts, env: Mapping[str, str]) -> tuple[dict[str, tuple[str, ...]], dict[str, bool]]:
    return unresolved_libraries(engine, env), loadable_libraries()


def _as_engine_says(
    report: EngineDiagnosis,
    engine: EngineFacts,
    settings: Settings,
    snapshot: GpuSnapshot,
    visible: str | None,
    history: GpuHistory,
) -> tuple[GpuSnapshot, EngineDiagnosis]:
    """The GPUs as the engine sees them, and its report with its devices."""
    read = partial(gpus.read_engine_gpus, engine, settings.engine.env, snapshot, visible, history)
    try:
        (seen, devices), notes = BoundedCall(read, DEVICE_SECONDS).result()
    except CallFailed as error:
        return snapshot, replace(report, unanswered=f"its --list-devices: {error}")
    return seen, replace(report, devices=devices, notes=(*report.notes, *notes))


def _unmatched(settings: Settings, snapshot: GpuSnapshot) -> tuple[str, ...]:
    present: tuple[NamedGpu, ...] = (*snapshot.gpus, *snapshot.missing)
    return unmatched_names(settings.gpu_names(), present) if present else ()
