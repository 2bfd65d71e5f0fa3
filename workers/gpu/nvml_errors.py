"""What NVML's error codes mean. `nv` is the module pynvml, which nvml.py imports."""

from __future__ import annotations

from typing import Any

from app.entities.gpu import GpuState

LOST = "the driver has lost it: it fell off the bus, or needs a reset (see the Xid in the kernel log)"
UNLISTED = "no longer listed by the driver"
MISMATCH = (
    "the NVIDIA library and the kernel module have different versions, as after a driver update: "
    "reboot, or load the new module and restart this service"
)


def state_of_error(nv: Any, error: Any) -> tuple[GpuState, str]:
    """State and problem of a snapshot when NVML returned this error instead of a list of GPUs."""
    return {
        nv.NVML_ERROR_LIBRARY_NOT_FOUND: (GpuState.NO_LIBRARY, "the NVIDIA driver's libnvidia-ml.so.1 is missing"),
        nv.NVML_ERROR_DRIVER_NOT_LOADED: (GpuState.NO_DRIVER, "the NVIDIA driver is not loaded"),
        nv.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (GpuState.VERSION_MISMATCH, MISMATCH),
        nv.NVML_ERROR_GPU_IS_LOST: (GpuState.LOST, LOST),
    }.get(error.value, (GpuState.FAILED, f"NVML error: {error}"))


def driver_errors(nv: Any) -> tuple[int, ...]:
    """Errors that concern no single GPU: NVML must be initialized again."""
    return (nv.NVML_ERROR_UNINITIALIZED, nv.NVML_ERROR_DRIVER_NOT_LOADED, nv.NVML_ERROR_LIB_RM_VERSION_MISMATCH)


def lost_gpu_errors(nv: Any) -> tuple[int, ...]:
    return (nv.NVML_ERROR_GPU_IS_LOST, nv.NVML_ERROR_RESET_REQUIRED)


def unavailable_errors(nv: Any) -> tuple[int, ...]:
    """Expected errors: not every GPU, driver or container provides every value."""
    return (
        nv.NVML_ERROR_NOT_SUPPORTED,
        nv.NVML_ERROR_NO_PERMISSION,
        nv.NVML_ERROR_NOT_FOUND,
        nv.NVML_ERROR_FUNCTION_NOT_FOUND,
        nv.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        nv.NVML_ERROR_INVALID_ARGUMENT,
        nv.NVML_ERROR_NO_DATA,
    )
