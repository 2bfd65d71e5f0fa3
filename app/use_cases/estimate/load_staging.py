"""What a load takes in RAM for a moment, beside the weights it reads: the buffers through which they pass.

By llama.cpp b11549. Mapped files need none. What is read goes through a buffer as large as one tensor, unless it is
RAM that takes it as it is (llama_model_loader::load_all_data); past the page cache, through one of 64 MiB more
(llama_file::read_aligned_chunk), and with CUDA through four of them in pinned memory. They are gone before the KV cache
and the compute buffers are allocated, so only what exceeds these is booked.
"""

from __future__ import annotations

from dataclasses import replace

from app.entities.launch import LoadMode, ModelOptions
from app.entities.memory import Estimate
from app.use_cases.model_shape.shape import ModelShape

DIRECT_BUFFER_BYTES = 64 * 1024**2  # LLAMA_DIRECT_IO_BUFFER_SIZE
DIRECT_BUFFERS = 4
DIRECT_STAGING_BYTES = DIRECT_BUFFERS * DIRECT_BUFFER_BYTES


def with_load_staging(estimate: Estimate, shape: ModelShape, options: ModelOptions) -> Estimate:
    """The estimate with what a load in the configured mode takes beyond what the server needs later.

    With `auto` nothing is added: it takes no more than what is spare at the time.
    """
    later = estimate.host.context_bytes + estimate.host.compute_bytes
    extra = max(0, _staging_bytes(shape, options) - later)
    if not extra:
        return estimate
    return replace(estimate, host=replace(estimate.host, margin_bytes=estimate.host.margin_bytes + extra))


def _staging_bytes(shape: ModelShape, options: ModelOptions) -> int:
    largest = max((*shape.largest_bytes, shape.output_bytes), default=0)
    if options.load_mode is LoadMode.READ:
        return largest
    if options.load_mode is LoadMode.DIRECT:
        direct = largest + DIRECT_BUFFER_BYTES
        return max(direct, DIRECT_STAGING_BYTES) if options.devices else direct
    return 0
