"""The part of `doctor` about engines that models have of their own: each is found and asked for its devices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

from app.entities.launch import EngineFacts, EngineUse, OwnEngine
from app.settings.schema import Settings
from app.use_cases.diagnosis.engine import EngineDiagnosis, engine_findings, gpu_use_findings
from app.use_cases.diagnosis.finding import Finding
from workers.builders import own_environment
from workers.diagnose_gpus import DEVICE_SECONDS, ENGINE_SECONDS, found_engine
from workers.diagnosis.bounded import BoundedCall, CallFailed
from workers.diagnosis.engine import look_for_engine
from workers.engine.gpu_probe import list_devices
from workers.folders import cache_folder


def diagnose_model_engines(settings: Settings, has_gpus: bool) -> list[Finding]:
    """`has_gpus`: whether NVML lists some."""
    own = settings.own_engines().items()
    return [finding for engine, use in own for finding in _findings(settings, engine, use, has_gpus)]


def _findings(settings: Settings, engine: OwnEngine, use: EngineUse, has_gpus: bool) -> Iterator[Finding]:
    env, subject = own_environment(settings.engine.env, engine), f"engine of {', '.join(use.models)}"
    look = partial(look_for_engine, engine.binary, cache_folder(), env, "engine")
    report = found_engine(BoundedCall(look, ENGINE_SECONDS), env, settings.engine.assume_gpu)
    if report.engine and not report.assumes_gpu:
        report = _with_devices(report, report.engine, env)
    of_gpus = gpu_use_findings(report) if has_gpus and use.gpu_models else []
    return (replace(finding, subject=subject) for finding in (*engine_findings(report, has_gpus), *of_gpus))


def _with_devices(report: EngineDiagnosis, engine: EngineFacts, env: Mapping[str, str]) -> EngineDiagnosis:
    try:
        devices, notes = BoundedCall(partial(list_devices, engine, env), DEVICE_SECONDS).result()
    except CallFailed as error:
        return replace(report, unanswered=f"its --list-devices: {error}")
    return replace(report, devices=devices, notes=(*report.notes, *notes))
