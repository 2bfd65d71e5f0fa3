"""For `check-config`: whether the pinned models fit on this machine together. Starts no server."""

from __future__ import annotations

from dataclasses import replace

from app.entities.gpu import GpuSnapshot, GpuState
from app.settings.schema import Settings
from app.use_cases.model_shape.shape import model_shape
from app.use_cases.scheduling.pool_state import PoolState
from workers.build_catalog import build_catalog
from workers.build_limits import build_limits
from workers.builders import build_engines, build_gpu_poller, gpus_at_start
from workers.catalog.model_headers import ModelHeaders
from workers.gpu.ram import read_memory
from workers.past_loads import past_loads
from workers.pool.estimate_source import EstimateSource
from workers.pool.pinned_models import PinnedModelsCheck, pinned_requests
from workers.telemetry.store import StateStore


def check_pinned_models(settings: Settings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(errors, warnings) that a start would report. Reads the GPUs, and what earlier loads took."""
    engines = build_engines(settings)
    engines.use(settings.own_engines())
    limits, shapes = build_limits(settings, engines), ModelHeaders(model_shape)
    store = StateStore(PoolState(limits, gpus=gpus_at_start(settings)))
    needs = EstimateSource(past_loads(), engines.refresh, shapes, lambda: store.gpus)
    pinned = pinned_requests(settings.pinned, build_catalog(settings, shapes), needs)
    check = PinnedModelsCheck(store, pinned, limits, read_memory)

    def publish(gpus: GpuSnapshot) -> None:
        store.pool = replace(store.pool, gpus=gpus)
        check.check(gpus)

    if store.gpus.state is GpuState.DISABLED:
        check.check(store.gpus)
        check.wait()
    else:
        poller = build_gpu_poller(settings, engines, publish)
        poller.start()
        check.wait()
        poller.close()
    return check.errors, () if check.errors else store.pins
