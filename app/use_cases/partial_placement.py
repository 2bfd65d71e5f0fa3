"""Places for a model that no GPU holds whole: its experts, some of its layers or all of it in RAM."""

from __future__ import annotations

from dataclasses import replace

from app.entities.launch import ALL_LAYERS, MemoryOptions
from app.entities.placement import CPU, Card, Placement
from app.use_cases.asked import Asked


def with_experts_in_ram(asked: Asked, card: Card, ctx_size: int, ram_bytes: int) -> Placement | None:
    estimate = asked.estimate(replace(_alone(asked, ctx_size), n_cpu_moe=ALL_LAYERS))
    if estimate.devices[0].booked_bytes > card.usable_bytes or estimate.host.booked_bytes > ram_bytes:
        return None
    layers = asked.shape.hparams.n_layer_all + 1
    return Placement((card.uuid,), (layers,), ALL_LAYERS, ctx_size, ALL_LAYERS, estimate)


def with_layers_in_ram(asked: Asked, card: Card, ctx_size: int, ram_bytes: int) -> Placement | None:
    """As many layers on the card as it holds."""
    low, high, best = 1, asked.shape.hparams.n_layer_all, None
    while low <= high:  # more layers need more
        middle = (low + high) // 2
        estimate = asked.estimate(replace(_alone(asked, ctx_size), n_gpu_layers=middle))
        if estimate.devices[0].booked_bytes <= card.usable_bytes:
            low, best = middle + 1, Placement((card.uuid,), (middle,), middle, ctx_size, 0, estimate)
        else:
            high = middle - 1
    return best if best and best.estimate.host.booked_bytes <= ram_bytes else None


def on_the_cpu(asked: Asked, ctx_size: int, ram_bytes: int) -> Placement | None:
    estimate = asked.estimate(replace(asked.options, devices=0, n_gpu_layers=0, tensor_split=(), ctx_size=ctx_size))
    return Placement((CPU,), (), 0, ctx_size, 0, estimate) if estimate.host.booked_bytes <= ram_bytes else None


def _alone(asked: Asked, ctx_size: int) -> MemoryOptions:
    return replace(asked.options, ctx_size=ctx_size, devices=1, tensor_split=())
