"""The largest context that fits into given memory, by cache type, and what to try if nothing fits."""

from __future__ import annotations

from dataclasses import dataclass, replace

from app.entities.launch import ModelOptions
from app.use_cases.estimate.companions import Companions
from app.use_cases.estimate.estimate import estimate_memory
from app.use_cases.estimate.kv_cache import is_quantized
from app.use_cases.estimate.projected import NO_CORRECTION, Correction, corrected_unless_certain
from app.use_cases.estimate.tensor_split import used_gpus
from app.use_cases.model_shape.shape import ModelShape

MIB = 1024**2
STEP = 256  # tokens: llama-server rounds up to it
FIT_TYPES = (("f16", "f16"), ("q8_0", "q8_0"), ("q4_0", "q4_0"))


@dataclass(frozen=True, slots=True)
class Fit:
    """The largest context with these cache types, and the bytes booked on the device with the most."""

    cache_type_k: str
    cache_type_v: str
    ctx_size: int
    total_bytes: int


def largest_contexts(
    shape: ModelShape,
    options: ModelOptions,
    companions: Companions,
    sizes: tuple[int, ...],
    by: Correction = NO_CORRECTION,
) -> list[Fit]:
    """The largest context for each cache type, in steps of STEP tokens, at most the model's own.

    `sizes`: bytes available on each device, or one value for all. `by`: what the engine said of the model.
    """
    trained = max(1, shape.hparams.integer("context_length"))
    most = -(-trained // STEP)
    types = [(options.cache_type_k, options.cache_type_v)]
    types += [
        each
        for each in FIT_TYPES
        if each not in types and not lacks_required_flash_attention(each[1], options.flash_attn)
    ]
    found = []
    for k, v in types:
        low, high, best = 1, most, None
        while low <= high:  # bisection: needs grow with the context
            middle = (low + high) // 2
            ctx_size = min(STEP * middle, trained)
            tried = replace(options, ctx_size=ctx_size, cache_type_k=k, cache_type_v=v)
            booked = _booked(shape, tried, companions, by)
            if all(each <= size for each, size in zip(booked, _per_device(sizes, options), strict=True)):
                low, best = middle + 1, Fit(k, v, ctx_size, max(booked))
            else:
                high = middle - 1
        if best:
            found.append(best)
    return found


def _per_device(sizes: tuple[int, ...], options: ModelOptions) -> tuple[int, ...]:
    """The size of each device that is used, or of RAM."""
    used = used_gpus(options)
    return sizes * max(1, len(used)) if len(sizes) == 1 else tuple(sizes[gpu] for gpu in used)


def _booked(shape: ModelShape, options: ModelOptions, companions: Companions, by: Correction) -> list[int]:
    """Bytes booked on each device, or of RAM without devices."""
    result = corrected_unless_certain(estimate_memory(shape, options, companions=companions), by)
    return [each.booked_bytes for each in result.devices] or [result.host.booked_bytes]


def why_nothing_fits(
    shape: ModelShape,
    options: ModelOptions,
    companions: Companions,
    sizes: tuple[int, ...],
    by: Correction = NO_CORRECTION,
) -> str:
    """What the smallest context and cache would need, and what else to try."""
    v = "f16" if options.flash_attn == "off" else "q4_0"
    smallest = _booked(shape, replace(options, ctx_size=STEP, cache_type_k="q4_0", cache_type_v=v), companions, by)
    missing = [need - size for need, size in zip(smallest, _per_device(sizes, options), strict=True)]
    worst = max(range(len(missing)), key=missing.__getitem__)
    where = f"GPU {used_gpus(options)[worst]}" if options.devices else "RAM"
    remedies = ["a smaller quantization"]
    if options.devices:
        has_experts = shape.largest_expert_bytes and not options.n_cpu_moe
        remedies += ["--cpu-moe"] if has_experts else ["fewer --n-gpu-layers"]
        remedies += ["more GPUs" if options.devices == 1 else "another --tensor-split"]
    need = f"even with a context of {STEP} tokens {where} needs {smallest[worst] / MIB:,.0f} MiB"
    return f"{need}, {missing[worst] / MIB:,.0f} more than available; try {', '.join(remedies[:-1])} or {remedies[-1]}"


def lacks_required_flash_attention(cache_type_v: str, flash_attn: str) -> bool:
    """Whether llama-server refuses this V cache type: quantized types need flash attention."""
    return flash_attn == "off" and is_quantized(cache_type_v)
