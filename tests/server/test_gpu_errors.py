"""What engines log about GPUs that they cannot use."""

from __future__ import annotations

import pytest

from app.use_cases.scheduling.events import GpuFailure
from workers.server.gpu_errors import GpuUse, find_gpu_failure, with_advice

PASCAL = """\
ggml_cuda_compute_forward: RMS_NORM failed
CUDA error: no kernel image is available for execution on the device
  current device: 1, in function ggml_cuda_compute_forward at /src/ggml/src/ggml-cuda/ggml-cuda.cu:2353
  err
/src/ggml/src/ggml-cuda/ggml-cuda.cu:75: CUDA error"""
ECC = """\
E CUDA error: uncorrectable ECC error encountered
E   current device: 0, in function ggml_backend_cuda_synchronize at /src/ggml-cuda.cu:2429
E   cudaStreamSynchronize(cuda_ctx->stream())"""
BUSY = """\
ggml_backend_cuda_buffer_type_alloc_buffer: allocating 852.89 MiB on device 1: cudaMalloc failed: {busy}
alloc_tensor_range: failed to allocate CUDA1 buffer of size 894320640
llama_model_load: error loading model: unable to allocate CUDA1 buffer""".format(
    busy="CUDA-capable device(s) is/are busy or unavailable"
)
OLD = "CUDA error 209 at /docs/llama.cpp/ggml-cuda.cu:6701: no kernel image is available for execution on the device"
LOST = "terminate called after throwing an instance of 'vk::DeviceLostError'\n  what():  vk::submit: ErrorDeviceLost"


@pytest.mark.parametrize(
    ("text", "words", "device", "is_of_card"),
    [
        (PASCAL, "CUDA error: no kernel image is available for execution on the device", 1, True),
        (ECC, "CUDA error: uncorrectable ECC error encountered", 0, True),
        (BUSY, "cudaMalloc failed: CUDA-capable device(s) is/are busy or unavailable", 1, True),
        (OLD, OLD, None, True),
        (LOST, "vk::submit: ErrorDeviceLost", None, False),
        (
            "0.01.234.567 E CUDA error: unspecified launch failure",
            "CUDA error: unspecified launch failure",
            None,
            False,
        ),
    ],
    ids=["Pascal", "ECC", "busy", "2023", "Vulkan", "launch failure"],
)
def test_a_cuda_error_is_found_with_its_device(text: str, words: str, device: int | None, is_of_card: bool):
    assert find_gpu_failure(text.splitlines()) == GpuFailure(with_advice(words), device=device, is_of_card=is_of_card)


@pytest.mark.parametrize(
    "line",
    [
        "CUDA error: out of memory",
        "CUDA error: the resource allocation failed",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED",
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9.0 MiB on device 0: cudaMalloc failed: out of memory",
        "llama_model_loader: - kv 1: general.name str = CUDA error: unspecified launch failure",
        "llama_model_load: error loading model: unknown model architecture: 'fake'",
    ],
)
def test_missing_memory_other_failures_and_text_from_model_files_are_no_fault_of_a_card(line: str):
    assert find_gpu_failure([line, "  current device: 0, in function alloc at /src/ggml-cuda.cu:1"]) is None


NOT_READY = [
    "ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected",
    "warning: no usable GPU found, --gpu-layers option will be ignored",
]


def test_an_engine_that_ignores_the_layers_uses_no_gpu():
    """The service started before nvidia-uvm was ready: -ngl ignored, /health ok."""
    use = GpuUse()
    use.read(NOT_READY[:1])
    assert use.problem(reports_none=False) == "", "another backend may find the GPU"
    use.read(NOT_READY[1:])
    words = use.problem(reports_none=False)
    assert words.startswith("failed to initialize CUDA: no CUDA-capable device is detected (") and "nvidia_uvm" in words


def test_an_engine_that_reports_memory_on_no_gpu_uses_none_whatever_it_says():
    assert GpuUse().problem(reports_none=True) == "its llama-server reports memory on no GPU"


def test_an_engine_built_without_gpu_support_says_so():
    use = GpuUse()
    use.read(["warning: not compiled with GPU offload support, --gpu-layers option will be ignored"])
    assert use.problem(False) == "not compiled with GPU offload support, --gpu-layers option will be ignored"


def test_a_driver_updated_under_the_service_is_explained():
    words = "failed to initialize CUDA: system has unsupported display driver / cuda driver combination"
    assert "reboot" in with_advice(words)
    assert "update it, or reboot" in with_advice("CUDA driver version is insufficient for CUDA runtime version")
