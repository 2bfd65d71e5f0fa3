"""The setting next to what was asked that would fit, for a model that was refused.

Worked out when somebody wants to know, on their thread: it may take several times as long as the decision itself.
"""

from __future__ import annotations

from dataclasses import replace

from app.use_cases.estimate.context import row_bytes
from app.use_cases.placement.candidates import AUTO_CONTEXTS, Needs, Places
from app.use_cases.placement.world import World


def nearest(needs: Needs, world: World) -> str:
    """As it is written in the settings; "" if there is none."""
    return _options(needs, world) or _wish(needs, world)


def _options(needs: Needs, world: World) -> str:
    """First a smaller cache, then a shorter context."""
    places = Places(needs, world)
    asked, longest = places.options, places.contexts[-1]
    kinds = [asked.cache_type_k]
    if asked.flash_attn != "off":
        kinds += [kind for kind in ("q8_0", "q4_0") if row_bytes(32, kind) < row_bytes(32, asked.cache_type_k)]
    contexts = (longest, *(each for each in AUTO_CONTEXTS if each < longest))
    tries = [(ctx_size, kind) for ctx_size in contexts for kind in kinds]
    if not _fits_with(places, *tries[-1]):  # the least of them
        return ""
    ctx_size, kind = next(each for each in tries if _fits_with(places, *each))
    cache = "" if kind == asked.cache_type_k else f"cache_type_k and cache_type_v {kind}"
    return " with ".join(filter(None, ("" if ctx_size == longest else f"ctx_size {ctx_size}", cache)))


def _fits_with(places: Places, ctx_size: int, kind: str) -> bool:
    options = replace(places.options, ctx_size=ctx_size)
    if kind != options.cache_type_k:
        options = replace(options, cache_type_k=kind, cache_type_v=kind)
    return Places(places.needs, places.world, options).as_it_is() is not None


def _wish(needs: Needs, world: World) -> str:
    """Where neither is enough: fewer GPUs at least, more at most, or less of it on them."""
    asked, wishes = needs.asked, needs.asked.wishes
    tries = {
        "min_gpus 1": replace(wishes, min_gpus=1),
        "max_gpus null": replace(wishes, max_gpus=None),
        "cpu_moe on": replace(wishes, cpu_moe=bool(asked.shape.largest_expert_bytes)),
        "partial_offload on": replace(wishes, partial_offload=True),
    }
    for said, others in tries.items():
        if others != wishes:
            places = Places(Needs(replace(asked, wishes=others)), world, Places(needs, world).shortest)
            if places.as_it_is() is not None:
                return said
    return ""
