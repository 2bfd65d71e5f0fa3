"""Runs every check of `doctor`, each within its time. Changes nothing and starts no service."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from app.settings.check import ConfigurationCheck, reach
from app.settings.schema import Settings
from app.use_cases.credentials import is_loopback
from app.use_cases.diagnosis.configuration import ConfigurationFacts, configuration_findings
from app.use_cases.diagnosis.finding import Finding, problem, warning
from app.use_cases.diagnosis.machine import (
    Directory,
    ListeningAddress,
    ProcessLimits,
    address_findings,
    directory_findings,
    limit_findings,
)
from app.use_cases.diagnosis.models import CheckedModel, ModelFacts, model_findings
from app.use_cases.diagnosis.service import service_findings, unit_findings
from workers.build_catalog import build_catalog, has_models
from workers.check_pinned import check_pinned_models
from workers.diagnose_gpus import diagnose_gpus
from workers.diagnose_model_engines import diagnose_model_engines
from workers.diagnosis import machine
from workers.diagnosis.bounded import BoundedCall, CallFailed
from workers.diagnosis.models import read_models
from workers.diagnosis.service import read_unit, running_service, user_name
from workers.folders import UNIT_FILE, cache_folder, state_folder, version

FILE_SECONDS, MODEL_SECONDS, PINNED_SECONDS = 10.0, 40.0, 90.0


def diagnose(check: ConfigurationCheck, url: str, health: Mapping[str, Any] | None) -> list[Finding]:
    """All findings, in the order of the report. Takes seconds; where everything hangs, two minutes.

    `health`: what the service at `url` answers to /health; None if none answers. With an invalid configuration, the
    rest is checked for the defaults.
    """
    settings = check.configuration.settings if check.configuration else Settings.model_construct()
    owner = machine.state_owner(state_folder())
    models = BoundedCall(partial(_read_models, settings), MODEL_SECONDS)
    directories = BoundedCall(partial(_read_directories, settings), FILE_SECONDS)
    about_gpus, engine, has_gpus = diagnose_gpus(settings)
    about_models, listed = _diagnose_models(models, settings)
    service = running_service(url, health, owner) if health is not None else None
    # On this machine, it is the one that uses the state directory.
    is_here = service is not None and is_loopback(urlsplit(url).hostname or "")
    return [
        *configuration_findings(_configuration(check)),
        *about_gpus,
        *diagnose_model_engines(settings, has_gpus),
        *about_models,
        *_diagnose_pinned(settings),
        *service_findings(service, version(), engine),
        *address_findings(_address(settings, health is not None, "" if is_here else owner)),
        *_diagnose_directories(directories),
        *limit_findings(_limits(settings, listed)),
        *unit_findings(read_unit(UNIT_FILE.read_text()), user_name()),
    ]


def _configuration(check: ConfigurationCheck) -> ConfigurationFacts:
    file, valid = check.file, check.configuration
    mode = file.stat().st_mode if file and file.exists() else 0
    settings = valid.settings if valid else None
    sets_variables = settings and (settings.engine.env or any(model.env for model in settings.models.values()))
    return ConfigurationFacts(
        file=str(file) if file else "",
        errors=check.errors,
        warnings=valid.warnings if valid else (),
        reach=reach(settings) if settings else "",
        is_writable_by_others=bool(mode & stat.S_IWOTH),
        exposes_secrets=bool(mode & stat.S_IROTH and sets_variables),
    )


def _read_models(settings: Settings) -> ModelFacts:
    build = partial(build_catalog, settings, with_demo=False)
    return read_models(settings.catalog.models_dirs, frozenset(settings.models), build, has_models(settings))


def _diagnose_models(call: BoundedCall[ModelFacts], settings: Settings) -> tuple[list[Finding], Sequence[CheckedModel]]:
    try:
        facts, _ = call.result()
    except CallFailed as error:
        folders = " ".join(map(str, settings.catalog.models_dirs))
        return [problem("models", f"the folders cannot be scanned: {error}", f"ls -l {folders}; df -h {folders}")], ()
    return model_findings(facts), facts.models


def _diagnose_pinned(settings: Settings) -> list[Finding]:
    """Whether the pinned models fit together."""
    if not settings.pinned:
        return []
    try:
        (errors, warnings), _ = BoundedCall(partial(check_pinned_models, settings), PINNED_SECONDS).result()
    except CallFailed as error:
        return [problem("pinned models", f"cannot be checked: {error}")]
    return [
        *(problem("pinned models", line, "pin fewer models, or reduce their ctx_size") for line in errors),
        *(warning("pinned models", line) for line in warnings),
    ]


def _address(settings: Settings, has_answer: bool, owner: str) -> ListeningAddress:
    host, port = settings.server.host, settings.server.port
    error = machine.why_not_listening(host, port)
    is_ours = bool(error) and has_answer
    return ListeningAddress(host, port, error, is_ours, machine.owner_of(port) if error and not is_ours else "", owner)


def _read_directories(settings: Settings) -> list[Directory]:
    keeps = any(model.keep_kv_cache for model in settings.models.values())
    kept_bytes = settings.scheduling.kv_cache_disk if keeps else 0
    return [
        machine.read_directory("state", state_folder(), kept_bytes, "STATE_DIRECTORY or XDG_STATE_HOME"),
        machine.read_directory("cache", cache_folder(), 0, "CACHE_DIRECTORY or XDG_CACHE_HOME"),
    ]


def _diagnose_directories(call: BoundedCall[list[Directory]]) -> list[Finding]:
    try:
        directories, _ = call.result()
    except CallFailed as error:
        places = f"{state_folder()} {cache_folder()}"
        return [problem("directories", f"cannot be read: {error}", f"ls -ld {places}; df -h {places}")]
    return directory_findings(directories)


def _limits(settings: Settings, models: Sequence[CheckedModel]) -> ProcessLimits:
    return ProcessLimits(
        open_files=machine.open_files_limit(),
        tasks=machine.tasks_limit(),
        locked_bytes=machine.locked_memory_limit(),
        threads=settings.server.threads,
        locking=tuple((model.name, model.size_bytes) for model in models if model.is_locked),
    )
