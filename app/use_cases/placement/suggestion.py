"""The setting next to what was asked that would fit, for a model that was refused.

Worked out when somebody wants to know, on their thread: it may take several times as long as the decision itself.
"""

from __future__ import annotations

from dataclasses import replace

from app.use_cases.estimate.context import row_bytes
from app.use_cases.placement.candidates import AUTO_CONTEXTS, Candidates, EstimateCache
from app.use_cases.placement.world import World


def nearest(needs: EstimateCache, world: World) -> str:
    """As it is written in the settings; "" if there is none."""
    return _options(needs, world) or _wish(needs, world)


def _options(needs: EstimateCache, world: World) -> str:
    """First a smaller cache, then a shorter context."""
    candidates = Candidates(needs, world)
    request, longest = candidates.options, candidates.contexts[-1]
    kinds = [request.cache_type_k]
    if request.flash_attn != "off":
        kinds += [kind for kind in ("q8_0", "q4_0") if row_bytes(32, kind) < row_bytes(32, request.cache_type_k)]
    contexts = (longest, *(each for each in AUTO_CONTEXTS if each < longest))
    tries = [(ctx_size, kind) for ctx_size in contexts for kind in kinds]
    if not _fits_with(candidates, *tries[-1]):  # the least of them
        return ""
    ctx_size, kind = next(each for each in tries if _fits_with(candidates, *each))
    cache = "" if kind == request.cache_type_k else f"cache_type_k and cache_type_v {kind}"
    return " with ".join(filter(None, ("" if ctx_size == longest else f"ctx_size {ctx_size}", cache)))


def _fits_with(candidates: Candidates, ctx_size: int, kind: str) -> bool:
    options = replace(candidates.options, ctx_size=ctx_size)
    if kind != options.cache_type_k:
        options = replace(options, cache_type_k=kind, cache_type_v=kind)
    return Candidates(candidates.needs, candidates.world, options).as_it_is() is not None


def _wish(needs: EstimateCache, world: World) -> str:
    """Where neither is enough: fewer GPUs at least, more at most, or less of it on them."""
    request, constraints = needs.request, needs.request.constraints
    tries = {
        "min_gpus 1": replace(constraints, min_gpus=1),
        "max_gpus null": replace(constraints, max_gpus=None),
        "cpu_moe on": replace(constraints, cpu_moe=bool(request.shape.largest_expert_bytes)),
        "partial_offload on": replace(constraints, partial_offload=True),
    }
    for said, others in tries.items():
        if others != constraints:
            candidates = Candidates(
                EstimateCache(replace(request, constraints=others)), world, Candidates(needs, world).shortest
            )
            if candidates.as_it_is() is not None:
                return said
    return ""
