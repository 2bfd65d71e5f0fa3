"""Ubatch: the tokens of one graph, for which compute buffers are reserved, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass

from app.entities.launch import ModelOptions
from app.use_cases.estimate.graph_rules import Work
from app.use_cases.estimate.kv_cache import CacheCells, cache_cells, is_quantized, tokens_at_once
from app.use_cases.model_shape.shape import ModelShape


@dataclass(frozen=True, slots=True)
class Ubatch:
    """Of a model with these options."""

    shape: ModelShape
    options: ModelOptions
    w: Work
    cells: CacheCells
    flash: bool  # whether flash attention is used


def largest_ubatch(shape: ModelShape, options: ModelOptions) -> Ubatch:
    cells = cache_cells(shape, options)
    return Ubatch(shape, options, graph_work(shape, options, cells), cells, uses_flash_attention(shape, options))


def uses_flash_attention(shape: ModelShape, options: ModelOptions) -> bool:
    """How flash_attn "auto" resolves on CUDA; the CPU's implementation supports every head size."""
    if options.flash_attn == "off" or shape.hparams.architecture == "grok":
        return False
    has_kernel = shape.graph.has_flash_attention or not options.devices
    return has_kernel or is_flash_forced(shape, options)


def is_flash_forced(shape: ModelShape, options: ModelOptions) -> bool:
    """Whether flash attention is used whatever CUDA has kernels for; a quantized V cache requires it."""
    wanted = options.flash_attn == "on" or (options.flash_attn == "auto" and is_quantized(options.cache_type_v))
    return wanted and shape.hparams.architecture != "grok"


def graph_work(shape: ModelShape, options: ModelOptions, cells: CacheCells) -> Work:
    tokens, slots = min(cells.ctx, tokens_at_once(shape, options)), max(1, options.parallel)
    return Work(shape.graph, -(-tokens // slots) * slots, slots)
