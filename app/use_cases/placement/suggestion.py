"""Suggestion: the setting closest to the configured ones with which a refused model would fit.

Computed on demand, on the caller's thread: it may take several times as long as the decision itself.
"""

from __future__ import annotations

from dataclasses import replace

from app.use_cases.estimate.kv_cache import row_bytes
from app.use_cases.placement.candidates import Candidates
from app.use_cases.placement.contexts import STEPS
from app.use_cases.placement.estimate_cache import EstimateCache
from app.use_cases.placement.world import World


def find_suggestion(estimates: EstimateCache, world: World) -> str:
    """Setting and value, such as "ctx_size 4096"; "" if none fits."""
    return _suggest_cache(estimates, world) or _suggest_constraint(estimates, world)


def _suggest_cache(estimates: EstimateCache, world: World) -> str:
    """A smaller cache type, else a shorter context, else both."""
    candidates = Candidates(estimates, world)
    options, longest = candidates.options, candidates.options.ctx_size
    types = [options.cache_type_k]
    if options.flash_attn != "off":
        types += [each for each in ("q8_0", "q4_0") if row_bytes(32, each) < row_bytes(32, options.cache_type_k)]
    contexts = (longest, *(each for each in reversed(STEPS) if each < longest))
    tries = [(ctx_size, cache_type) for ctx_size in contexts for cache_type in types]
    if not _fits_with(candidates, *tries[-1]):  # the smallest
        return ""
    ctx_size, cache_type = next(each for each in tries if _fits_with(candidates, *each))
    cache = "" if cache_type == options.cache_type_k else f"cache_type_k and cache_type_v {cache_type}"
    return " with ".join(filter(None, ("" if ctx_size == longest else f"ctx_size {ctx_size}", cache)))


def _fits_with(candidates: Candidates, ctx_size: int, cache_type: str) -> bool:
    options = replace(candidates.options, ctx_size=ctx_size)
    if cache_type != options.cache_type_k:
        options = replace(options, cache_type_k=cache_type, cache_type_v=cache_type)
    return Candidates(candidates.estimates, candidates.world, options).without_eviction() is not None


def _suggest_constraint(estimates: EstimateCache, world: World) -> str:
    """A lower min_gpus, no max_gpus, or parts of the model in RAM."""
    request, constraints = estimates.request, estimates.request.constraints
    tries = {
        "min_gpus 1": replace(constraints, min_gpus=1),
        "max_gpus null": replace(constraints, max_gpus=None),
        "cpu_moe on": replace(constraints, cpu_moe=bool(request.shape.largest_expert_bytes)),
        "partial_offload on": replace(constraints, partial_offload=True),
    }
    for setting, changed in tries.items():
        if changed != constraints:
            candidates = Candidates(EstimateCache(replace(request, constraints=changed)), world)
            if candidates.without_eviction() is not None:
                return setting
    return ""
