"""The error for a request that the scheduler refused."""

from __future__ import annotations

import math
from collections.abc import Mapping

from app.entities.placement import CPU
from app.entities.refusal import Reason, Refusal
from app.errors.base import ProxyError
from app.errors.capacity import (
    Draining,
    InsufficientVram,
    ModelDoesNotFit,
    NoGpu,
    Overloaded,
    QueueFull,
    WaitTimeout,
)
from app.errors.engine import (
    LoadTimeout,
    ModelLoadFailed,
    ModelUnloaded,
    SpawnFailed,
)
from app.errors.request import (
    ClientDisconnected,
    RequestCrashesEngine,
)

_LEAVES: Mapping[Reason, tuple[type[ProxyError], str]] = {
    Reason.DRAINING: (Draining, "the service is shutting down; try again once it has restarted"),
    Reason.OVERLOADED: (Overloaded, "{detail}"),
    Reason.QUEUE_FULL: (QueueFull, "{model}: {detail}"),
    Reason.WAIT_TIMEOUT: (WaitTimeout, "{model}: {detail}"),
    Reason.INSUFFICIENT_MEMORY: (InsufficientVram, "{model}: {detail}; {advice}"),
    Reason.DOES_NOT_FIT: (ModelDoesNotFit, "{model}: {detail}; {advice}"),
    Reason.NO_GPU: (NoGpu, "{model}: {detail}"),
    Reason.UNLOADED: (
        ModelUnloaded,
        "{model} was unloaded while the request waited for it; send it again, or load it with POST /models/load",
    ),
    Reason.LOAD_FAILED: (ModelLoadFailed, "{model} could not be loaded: {detail}"),
    Reason.LOAD_TIMEOUT: (LoadTimeout, "{detail}"),
    Reason.SPAWN_FAILED: (SpawnFailed, "{model}: the engine could not be started: {detail}"),
    Reason.CRASHES_ENGINE: (
        RequestCrashesEngine,
        "{model}: this request has ended llama-server twice, the second time while it ran alone; change it: as "
        "it is, it is refused for another {detail}",
    ),
    Reason.CLIENT_DISCONNECTED: (ClientDisconnected, "the client closed its connection"),
}


def error_for(refusal: Refusal) -> ProxyError:
    """The error for a rejected request."""
    error = _error_for(refusal)
    if refusal.retry_after_seconds is not None:
        error.retry_after = min(60, max(1, math.ceil(refusal.retry_after_seconds)))
    return error


def _error_for(refusal: Refusal) -> ProxyError:
    leaf, text = _LEAVES[refusal.reason]
    nearest = refusal.suggestion
    fitting = f"it would fit with {nearest}" if nearest else "use a smaller quantization"
    where = "" if CPU in refusal.free_bytes else " (nvidia-smi lists the processes)"
    advice = f"free memory{where}, or: {fitting}" if refusal.reason is Reason.INSUFFICIENT_MEMORY else fitting
    needed = refusal.needed_bytes
    if not needed:  # it is not about bytes
        return leaf(text.removesuffix("; {advice}").format(model=refusal.model, detail=refusal.detail))
    message = text.format(model=refusal.model, detail=refusal.detail, advice=advice)
    devices = [
        {"uuid": device, "free_bytes": free, "needed_bytes": needed} for device, free in refusal.free_bytes.items()
    ]
    fields = {"needed_bytes": needed, "devices": devices}
    return leaf(message, fields=fields | ({"nearest": nearest} if nearest else {}))
