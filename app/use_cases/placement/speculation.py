"""Speculation: whether a model drafts tokens with its own MTP layers, or with a head beside it, where the settings
leave it to the placement.

Never at the cost of anything else: it is left off if the model would otherwise get fewer layers on GPUs, more GPUs, a
shorter context, or an eviction or a wait that it does not need without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from app.entities.launch import ALL_LAYERS
from app.entities.placement import Decision, Placement
from app.use_cases.placement.request import PlacementRequest

DRAFTS = "drafts tokens with its MTP layers"
LEFT_OFF = "speculative decoding left off: "


def with_optional_speculation(request: PlacementRequest, decide: Callable[[PlacementRequest], Decision]) -> Decision:
    """The decision without drafting, or that with it if it costs nothing else; its reason says which."""
    plain = decide(request)
    speculation, placed = request.optional_speculation, plain.placement
    if not speculation or placed is None:
        return plain
    if placed.is_on_cpu or placed.n_gpu_layers < ALL_LAYERS or placed.n_cpu_moe:
        return _explained(plain, f"{LEFT_OFF}not all of the model is on GPUs")
    if request.draft_head and len(placed.uuids) > 1:
        return _explained(plain, f"{LEFT_OFF}the model is on several GPUs")
    drafting = decide(_fixed(request, placed, speculation))
    if not _costs_nothing_else(drafting, plain, placed):
        return _explained(plain, f"{LEFT_OFF}memory is short")
    assert drafting.placement is not None
    path = request.draft_head.path if request.draft_head else ""
    own = replace(drafting.placement, speculation=speculation, draft_head=path, full_ctx_size=placed.full_ctx_size)
    how = f"drafts tokens with {path.rpartition('/')[2]}" if path else DRAFTS
    return _explained(replace(drafting, placement=own, reason=plain.reason), how)


def _fixed(request: PlacementRequest, placed: Placement, speculation: str) -> PlacementRequest:
    """The same with the context that was chosen, and drafting."""
    options = replace(request.options, ctx_size=placed.ctx_size, speculation=speculation)
    return replace(request, options=options, constraints=replace(request.constraints, has_auto_context=False))


def _costs_nothing_else(drafting: Decision, plain: Decision, placed: Placement) -> bool:
    own = drafting.placement
    if own is None or (drafting.outcome, drafting.evict) != (plain.outcome, plain.evict):
        return False
    return (own.uuids, own.n_gpu_layers, own.n_cpu_moe) == (placed.uuids, placed.n_gpu_layers, placed.n_cpu_moe)


def _explained(decision: Decision, how: str) -> Decision:
    return replace(decision, reason=f"{decision.reason}; {how}")
