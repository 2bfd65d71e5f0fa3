"""This machine as a command sees it, for models that are not here yet: nothing is loaded on it."""

from __future__ import annotations

import threading
from functools import cached_property
from typing import TYPE_CHECKING

import click

from app.commands.options import MemoryQuery
from app.commands.placement_request import request_by_file
from app.commands.this_machine import this_machine
from app.entities.frozen import replace
from app.entities.placement import Decision, Outcome
from app.entities.refusal import Reason, Refusal
from app.use_cases.launch.capabilities import launch_as_started
from app.use_cases.placement.engine_gpus import as_the_engine_sees_them
from app.use_cases.placement.placement import decide
from app.use_cases.placement.world import World
from app.use_cases.reporting.plans import Plan, plan_of
from workers.build_downloads import model_to_download, planned_request

if TYPE_CHECKING:
    from app.entities.gpu import GpuSnapshot
    from app.entities.model import Model
    from app.settings.schema import Settings
    from app.use_cases.placement.request import PlacementRequest
    from workers.downloads.remote_model import RemoteModel


class LocalMachine:
    """Thread-safe; the machine is read once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._reading = threading.Lock()

    def plan(self, model: RemoteModel) -> Plan:
        own, request = self._request(model)
        return plan_of(own, self._decide(planned_request(request)), self._world[0])

    def refusal(self, model: RemoteModel) -> Refusal | None:
        own, request = self._request(model)
        decision = self._decide(request)
        if decision.outcome is not Outcome.REFUSE or not decision.is_permanent:
            return None
        needed, free = decision.needed_bytes, decision.free_bytes
        return Refusal(Reason.DOES_NOT_FIT, own.name, decision.reason, needed, free, decision.suggest)

    def _request(self, remote: RemoteModel) -> tuple[Model, PlacementRequest]:
        model = model_to_download(self._settings, remote)
        model = replace(model, launch=launch_as_started(model.launch, remote.facts))
        return model, request_by_file(remote.shape, model.launch.options, model.constraints, remote.companions)

    def _decide(self, request: PlacementRequest) -> Decision:
        world, problem = self._world
        if problem and request.options.n_gpu_layers:
            return Decision(Outcome.REFUSE, problem, 0)
        return decide(request, world.with_others_taken())

    @property
    def _world(self) -> tuple[World, str]:
        with self._reading:
            return self._read

    @cached_property
    def _read(self) -> tuple[World, str]:
        settings, launch = self._settings, self._settings.launch_of()
        about_gpus = settings.gpu.enabled, settings.gpu.cpu_fallback, settings.gpu_names()
        limits = settings.constraints_of(), settings.gpu_limits(), settings.policy()
        return this_machine(MemoryQuery("", launch.options, launch, *limits, *about_gpus), self._as_used)

    def _as_used(self, snapshot: GpuSnapshot) -> GpuSnapshot:
        """The GPUs as the engine of a service here would see them; it is asked only if there are some."""
        from workers.engine.binary import find_engine
        from workers.engine.gpu_probe import probe_gpus
        from workers.engine.probe_process import EngineNotFound
        from workers.folders import cache_folder

        about = self._settings.engine
        if about.assume_gpu or not snapshot.gpus:
            return snapshot
        try:
            engine = find_engine(about.binary, cache=cache_folder(), env=about.env)
        except EngineNotFound as error:
            click.echo(f"note: no engine ({error}): planned for one that can use the GPUs", err=True)
            return snapshot
        return as_the_engine_sees_them(snapshot, probe_gpus(engine, about.env, snapshot.gpus, lambda: None))
