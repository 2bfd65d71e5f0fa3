"""Sleep: when NVML may be closed.

An open NVML alone keeps a GPU out of its lowest power state. A load needs a reading that is younger than its request,
and so wakes the GPUs; nothing else does.
"""

from __future__ import annotations

from app.entities.gpu import GpuState
from app.entities.server import Server
from app.use_cases.scheduling.pool_state import PoolState


def may_sleep(state: PoolState, now: float) -> bool:
    """Whether nothing has used or needed the GPUs for `gpu.idle_close_seconds`; `now` in monotonic seconds.

    While a GPU is missing they stay awake: its return would not be noticed.
    """
    idle_seconds = state.limits.gpu_idle_close_seconds
    if idle_seconds is None or state.gpus.state is not GpuState.OK or state.gpus.missing:
        return False
    return not _are_in_use(state) and now >= max(state.gpus_needed_at, state.last_exit_at) + idle_seconds


def _are_in_use(state: PoolState) -> bool:
    is_awaited = any(waiter.uses_gpus for waiter in state.waiting_for_server)
    return is_awaited or any(_may_use_gpus(state, server) for server in state.servers)


def _may_use_gpus(state: PoolState, server: Server) -> bool:
    """Also a server that is on the CPU for want of a GPU: it moves to one that becomes usable."""
    request = state.placement_requests.get(server.id)
    return request is None or request.options.n_gpu_layers != 0
