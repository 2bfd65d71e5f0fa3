"""What engines log about GPUs that they cannot use, and what to do about it.

Texts are CUDA's (cudaGetErrorString, 13.0) in the lines of llama.cpp's ggml-cuda.cu (ggml_cuda_init, ggml_cuda_error,
ggml_backend_cuda_buffer_type_alloc_buffer; b11434).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from app.use_cases.scheduling.events import GpuFailure
from workers.server.log import LINE_START

_NO_MEMORY = r"out of memory|the resource allocation failed|CUBLAS_STATUS_ALLOC_FAILED"
# CUDA error: no kernel image is available for execution on the device
#   current device: 1, in function ggml_cuda_compute_forward at /src/ggml-cuda.cu:2429
_CUDA_ERROR = re.compile(rf"{LINE_START}(CUDA error(?: \d+ at \S+)?: (?!{_NO_MEMORY}).+)$")
_CURRENT_DEVICE = re.compile(rf"{LINE_START}\s*current device: (\d{{1,2}})\b")
_NOT_ALLOCATED = re.compile(
    rf"{LINE_START}\w+: allocating [\d.]+ MiB on device (\d{{1,2}}): (cudaMalloc failed: (?!{_NO_MEMORY}).+)$"
)
_VULKAN_LOST = re.compile(r"\s*what\(\):\s+(vk::\S+: ErrorDeviceLost)")
# Errors of other kinds may be due to a model or a request, as "an illegal memory access was encountered".
_OF_CARD = re.compile("ECC error|NVLink error|hardware|no kernel image|busy or unavailable|no CUDA-capable")
# It then computes on the CPU.
_NOT_INITIALIZED = re.compile(rf"{LINE_START}\w+: (failed to initialize CUDA: .+)$")
_LAYERS_IGNORED = re.compile(
    rf"{LINE_START}(?:warning: )?((?:no usable GPU|not compiled) .+-gpu-layers option will be ignored)"
)

_UPDATED = (
    "the NVIDIA driver was updated: its kernel module and its libraries have different versions; "
    "reboot, or load the new module and restart this service"
)
_ADVICE = (
    ("unsupported display driver / cuda driver combination", _UPDATED),
    (
        "driver version is insufficient",
        "the NVIDIA driver is older than the CUDA that this engine needs: update it, or reboot if it was just updated",
    ),
    (
        "no CUDA-capable device",
        "if nvidia-smi lists the GPU, the module nvidia_uvm may be missing: nvidia-modprobe -u -c=0",
    ),
    (
        "no kernel image",
        "this engine was not built for the GPU's compute capability: use a build that was, or exclude the GPU",
    ),
    ("busy or unavailable", "another process may hold the GPU exclusively: nvidia-smi -q -d COMPUTE"),
    ("ECC error", "the GPU needs a reset: nvidia-smi --gpu-reset, or reboot"),
)


def with_advice(words: str) -> str:
    """The engine's words, and what to do about them if that is known."""
    advice = next((advice for error, advice in _ADVICE if error in words), "")
    return f"{words} ({advice})" if advice else words


def find_gpu_failure(lines: Iterable[str]) -> GpuFailure | None:
    """The CUDA error that ended a llama-server, by its `ServerLog.lines`; None if there is none, or only of memory."""
    words, device = "", None
    for line in lines:
        if found := _NOT_ALLOCATED.match(line):
            words, device = found[2], int(found[1])
        elif found := _CUDA_ERROR.match(line) or _VULKAN_LOST.match(line):
            words, device = found[1], None
        elif words and device is None and (found := _CURRENT_DEVICE.match(line)):
            device = int(found[1])
    return GpuFailure(with_advice(words), device=device, is_of_card=bool(_OF_CARD.search(words))) if words else None


def find_cuda_error(lines: Iterable[str]) -> str:
    """Why CUDA could not be initialized, with advice; "" if it was, or if the engine has none."""
    found = next((found for line in lines if (found := _NOT_INITIALIZED.match(line))), None)
    return with_advice(found[1]) if found else ""


class GpuUse:
    """Reads a llama-server's log for the messages that it computes on the CPU, although it was told to use GPUs."""

    def __init__(self) -> None:
        self._cause = ""
        self._is_unused = False

    def read(self, lines: Iterable[str]) -> None:
        for line in lines:
            if found := _NOT_INITIALIZED.match(line):
                self._cause = found[1]
            elif found := _LAYERS_IGNORED.match(line):
                self._is_unused, self._cause = True, self._cause or found[1]

    def problem(self, reports_none: bool) -> str:
        """The engine's words, or that it reports no GPU; "" while it may use some. `reports_none`: by the memory it
        reports."""
        if not self._is_unused and not reports_none:
            return ""
        return with_advice(self._cause or "its llama-server reports memory on no GPU")
