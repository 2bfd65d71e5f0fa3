"""Cuts what ggml-cuda decides on the host out of llama.cpp's source: native/stand_in_cuda.cpp includes the result.

None of it is kept in this repository: it is cut when the tool is built, so each build has its own engine's code.
"""

from __future__ import annotations

import re
from pathlib import Path

from workers.engine_builds.stopping import CannotContinue

# File in ggml/src/ggml-cuda and the beginning of the line where the function or type begins, in the order of use.
_WANTED = (
    ("topk-moe.cuh", "struct ggml_cuda_topk_moe_args"),
    ("topk-moe.cu", "bool ggml_cuda_should_use_topk_moe"),
    ("fwht.cu", "bool ggml_cuda_op_mul_mat_use_fwht"),
    ("lightning-indexer.cu", "bool ggml_cuda_lightning_indexer_supported"),
    ("ggml-cuda.cu", "static bool ggml_cuda_should_fuse_mul_mat"),
    ("ggml-cuda.cu", "static bool ggml_cuda_match_shared_expert"),
    ("ggml-cuda.cu", "static bool ggml_cuda_topk_moe_fusion"),
    ("ggml-cuda.cu", "struct ggml_cuda_moe_weighted_reduction_match"),
    ("ggml-cuda.cu", "static bool ggml_cuda_match_moe_weighted_reduction"),
    ("fattn-common.cuh", "struct ggml_cuda_flash_attn_ext_f16_extra_data"),
    (
        "fattn-common.cuh",
        "static inline ggml_cuda_flash_attn_ext_f16_extra_data ggml_cuda_flash_attn_ext_get_f16_extra_data",
    ),
    ("fattn.cu", "enum best_fattn_kernel"),
    ("fattn.cu", "static bool ggml_cuda_fattn_kv_type_supported"),
    ("fattn.cu", "static best_fattn_kernel ggml_cuda_get_best_fattn_kernel"),
    ("fattn.cu", "size_t ggml_cuda_flash_attn_ext_get_alloc_size"),
    ("ggml-cuda.cu", "static bool ggml_backend_cuda_device_supports_op"),
    ("ggml-cuda.cu", "static int64_t get_op_batch_size"),
    ("ggml-cuda.cu", "static void ggml_backend_cuda_graph_optimize"),
)

# ggml_cuda_flash_attn_ext_supported in fattn.cu, which also has the branches of other vendors.
_SUPPORTED = """static bool ggml_cuda_flash_attn_ext_supported(int device, const ggml_tensor * dst) {
    return ggml_cuda_get_best_fattn_kernel(device, dst) != BEST_FATTN_KERNEL_NONE;
}"""


def cuda_functions(source: Path) -> str:
    """The text of native/cuda_functions.inc. `source`: llama.cpp's folder. Raises CannotContinue."""
    folder = source / "ggml" / "src" / "ggml-cuda"
    found = [_adapted(_cut(folder / file, begin)) for file, begin in _WANTED]
    before = next(index for index, (_, begin) in enumerate(_WANTED) if "supports_op" in begin)
    return "\n\n".join([*found[:before], _SUPPORTED, *found[before:]]) + "\n"


def _cut(file: Path, begin: str) -> str:
    """From the line that begins so to the next brace in the first column."""
    lines = file.read_text().split("\n") if file.is_file() else []
    first = next((index for index, line in enumerate(lines) if line.startswith(begin)), None)
    if first is None:
        raise CannotContinue(
            f"{file.name} of this llama.cpp has no line that begins with '{begin}': what the stand-in for CUDA is made "
            "of has changed, and bench/truth/cuda_functions.py must follow"
        )
    last = next(index for index in range(first, len(lines)) if lines[index] in ("}", "};"))
    return "\n".join(lines[first : last + 1])


def _adapted(text: str) -> str:
    # Asks the device for its kernels' occupancy, and only a batch of one token may be decoded sparsely.
    text = re.sub(r"const bool sparse_decode = .*?;", "const bool sparse_decode = false;", text, flags=re.DOTALL)
    # The rest of graph_optimize assigns streams.
    head, has_streams, _ = text.partition("#ifdef USE_CUDA_GRAPH")
    return f"{head}    (void) cuda_ctx;\n}}" if has_streams and "graph_optimize" in head else text
