"""The CMake variables of a llama-server build."""

from __future__ import annotations

from collections.abc import Sequence

from app.entities.engines import Backend
from app.use_cases.engines.build_numbers import UNKNOWN_BUILD

# Only what llama-server needs, and nothing that uses the network.
OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_ALL_WARNINGS": "OFF",
    "GGML_ALL_WARNINGS": "OFF",
    "LLAMA_CURL": "OFF",  # for older builds; newer ones warn that it is unused
}
_OF_BACKEND = {
    Backend.CUDA: {
        "GGML_CUDA": "ON",
        "GGML_CUDA_FA_ALL_QUANTS": "OFF",  # kernels for mixed K and V types: most of the build time
        "GGML_CUDA_NCCL": "OFF",  # one GPU, or several without a library of NVIDIA's for collective operations
    },
    Backend.VULKAN: {"GGML_VULKAN": "ON"},
    Backend.CPU: {},
}


def build_options(build_number: str, backend: Backend, architectures: Sequence[str] = ()) -> dict[str, str]:
    """All variables but those of the CPU's instructions and of libraries.

    `build_number`: what the engine will report, or UNKNOWN_BUILD. `architectures`: compute capabilities, such as "8.9".
    """
    options = OPTIONS | _OF_BACKEND[backend]
    if build_number != UNKNOWN_BUILD:
        options["LLAMA_BUILD_NUMBER"] = build_number
    if backend is Backend.CUDA:
        # "-real": machine code alone, without PTX for cards that this machine does not have.
        options["CMAKE_CUDA_ARCHITECTURES"] = ";".join(f"{each.replace('.', '')}-real" for each in architectures)
    return options
