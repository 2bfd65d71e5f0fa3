"""The GPU block of /health: the original service's keys, and our own with units and without guessed values."""

from __future__ import annotations

from collections.abc import Sequence

from app.entities.gpu import Gpu, GpuSnapshot, GpuState
from app.entities.placement import GpuLimits
from app.entities.server import Server

GB = 1024**3  # as the original service counts
DEFAULT_LIMITS = GpuLimits()


def gpu_pool_status(
    snapshot: GpuSnapshot, servers: Sequence[Server] = (), limits: GpuLimits = DEFAULT_LIMITS
) -> dict[str, object]:
    """The block for `snapshot` (as of now); all zeros without GPUs."""
    gpus = [_gpu(gpu, [each for each in servers if gpu.uuid in each.booked], limits) for gpu in snapshot.gpus]
    total, used, free = (
        sum(getattr(gpu, name) for gpu in snapshot.gpus) / GB for name in ("total_bytes", "used_bytes", "free_bytes")
    )
    return {
        "total_gpus": len(gpus),
        "available_gpus": sum(bool(gpu.free_bytes) for gpu in snapshot.gpus),
        "total_vram": total,
        "available_vram": free,
        "total_memory": total,
        "used_memory": used,
        "free_memory": free,
        "gpu_list": gpus,
        "gpus": gpus,
        "utilization_average": _average([gpu.utilization_percent or 0 for gpu in snapshot.gpus]),
        "allocation_strategy": "single-gpu-preferred",
        "gpu_available": snapshot.as_awake().has_usable_gpu,
        "gpu_monitoring_enabled": snapshot.state is GpuState.OK,
        "state": snapshot.state,
        "problem": snapshot.problem,
        "driver_version": snapshot.driver_version,
        "cuda_version": snapshot.cuda_version,
        "missing_gpus": [
            {"id": each.index, "name": each.name, "uuid": each.uuid, "problem": each.problem}
            for each in snapshot.missing
        ],
    }


def _gpu(gpu: Gpu, servers: Sequence[Server], limits: GpuLimits) -> dict[str, object]:
    capability = gpu.compute_capability
    return {
        "id": gpu.index,
        "name": gpu.name,
        "total_memory": gpu.total_bytes / GB,
        "free_memory": gpu.free_bytes / GB,
        "used_memory": gpu.used_bytes / GB,
        "utilization": float(gpu.utilization_percent or 0),
        "temperature": gpu.temperature_celsius,
        "power_usage": gpu.power_watts,
        "assigned_models": list(dict.fromkeys(server.model.name for server in servers)),
        "compute_capability": f"{capability[0]}.{capability[1]}" if capability else None,
        "uuid": gpu.uuid,
        "pci_bus": gpu.pci_bus,
        "is_mig": gpu.is_mig,
        "unified": gpu.is_unified,
        "drives_display": gpu.drives_display,
        "total_bytes": gpu.total_bytes,
        "free_bytes": gpu.free_bytes,
        "used_bytes": gpu.used_bytes,
        "reserve_bytes": limits.reserve_of(gpu, gpu.ram_bytes),
        "booked_bytes": sum(server.booked[gpu.uuid] for server in servers),
        "others_bytes": _others_bytes(gpu, servers),
        "utilization_percent": gpu.utilization_percent,
        "problem": gpu.problem,
        "vulkan_number": gpu.vulkan_number,
        "vulkan_number_assumed": gpu.is_vulkan_assumed,
    }


def _others_bytes(gpu: Gpu, servers: Sequence[Server]) -> int | None:
    """Bytes used by other processes and the driver; None if NVML does not report our servers' share."""
    shown = [(gpu.processes or {}).get(server.pid or 0) for server in servers]
    if None in shown:
        return None
    return max(0, gpu.used_bytes - sum(size or 0 for size in shown))


def _average(values: list[int]) -> float:
    return round(sum(values) / len(values), 1) if values else 0.0
