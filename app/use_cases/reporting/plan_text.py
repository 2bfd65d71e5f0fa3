"""Where a model fits, or why it does not, in a few words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from app.entities.launch import ALL_LAYERS
from app.entities.placement import CPU, Decision, Outcome, Placement
from app.entities.wait_cause import WaitCause
from app.use_cases.reporting.phrases import gib_text, place_text

MENTIONED_BYTES = 256 * 1024**2  # what other processes hold of a GPU, a desktop for example, is not worth mentioning


@dataclass(frozen=True, slots=True)
class MachineShare:
    """What a model may use of the machine, and who else holds it."""

    gpu_bytes: tuple[int, ...] = ()  # of each GPU that it may use, without the reserve
    ram_bytes: int = 0
    held_by_others: Mapping[int, int] = field(default_factory=dict)  # bytes of other processes, by NVML index
    pinned: tuple[str, ...] = ()  # models that are not evicted
    is_gpu_missing: bool = False


NOTHING = MachineShare()


def plan_text(
    decision: Decision, share: MachineShare, evict: Sequence[str], awaited: Sequence[str], shown: Callable[[str], str]
) -> str:
    """For example "fits GPUs 0+1, would evict qwen3-14b". `evict` and `awaited` are names that the reader may see;
    `shown` makes one of any."""
    place = decision.placement
    if place and decision.outcome in (Outcome.PLACE, Outcome.EVICT):
        evicts = f", would evict {', '.join(evict)}" if evict else ""
        needs = "" if evict else _ram_needed(decision, place)
        return f"fits {_place(place)}{needs}{evicts}{_context(place)}"
    if decision.outcome is Outcome.WAIT:
        return _waits(decision, share, awaited)
    return _never(decision, share) if decision.is_permanent else _no_room(decision, share, shown)


def _place(place: Placement) -> str:
    if place.is_on_cpu:
        return "the RAM"
    in_ram = gib_text(place.booked_bytes[CPU] - place.prompt_cache_bytes)
    if place.n_cpu_moe:
        return f"{place_text(place)} with {in_ram} of experts in RAM"
    if place.n_gpu_layers < ALL_LAYERS:
        return f"{place_text(place)} with {place.n_gpu_layers} layers, {in_ram} in RAM"
    return place_text(place)


def _ram_needed(decision: Decision, place: Placement) -> str:
    if not place.is_on_cpu:
        return ""
    free = f", {gib_text(decision.free_bytes[CPU])} free" if CPU in decision.free_bytes else ""
    return f": needs {gib_text(decision.needed_bytes)}{free}"


def _context(place: Placement) -> str:
    return f"; context {place.ctx_size:,} instead of {place.full_ctx_size:,}" if place.full_ctx_size else ""


def _waits(decision: Decision, share: MachineShare, awaited: Sequence[str]) -> str:
    names = ", ".join(awaited)
    match decision.cause:
        case WaitCause.BUSY:
            return f"waits for {names} to finish"
        case WaitCause.LOADING:
            return f"waits for {names} to finish loading"
        case WaitCause.RELEASING:
            return "waits for memory being released"
        case WaitCause.DRAINING:
            return "waits for draining models to finish"
    others = _others(share) or ("a GPU is missing" if share.is_gpu_missing else "other processes hold the memory")
    return f"waits: {others}; if that stays so, it gets a context of {decision.shorter_ctx_size:,}"


def _others(share: MachineShare) -> str:
    held = {index: size for index, size in share.held_by_others.items() if size >= MENTIONED_BYTES}
    return f"other processes hold {' and '.join(f'GPU {index}' for index in held)}" if held else ""


def _never(decision: Decision, share: MachineShare) -> str:
    needed, total = decision.needed_bytes, sum(share.gpu_bytes)
    if not needed:
        return f"never: {decision.reason}"
    needs = "does not fit while a GPU is missing: needs" if share.is_gpu_missing else "never: needs"
    if CPU in decision.free_bytes:
        return f"{needs} {gib_text(needed)} of RAM, there are {gib_text(share.ram_bytes)}"
    if needed > total:
        have = "the GPU has" if len(share.gpu_bytes) == 1 else "the GPUs have"
        return f"{needs} {gib_text(needed)}, {have} {gib_text(total)}"
    return f"never: {decision.reason}"


def _no_room(decision: Decision, share: MachineShare, shown: Callable[[str], str]) -> str:
    """What is in the way cannot be evicted: a request would be rejected at once."""
    if not decision.needed_bytes:
        return _visible(decision.reason, share.pinned, shown)
    pinned = ", ".join(map(shown, share.pinned))
    why = [_others(share), f"{pinned} {'is' if len(share.pinned) == 1 else 'are'} pinned" if pinned else ""]
    needs = f"no room: needs {gib_text(decision.needed_bytes)}, {_free(list(decision.free_bytes.values()))}"
    return "; ".join(filter(None, (needs, *why)))


def _free(sizes: Sequence[int]) -> str:
    """Of several GPUs the emptiest, too: their sum may exceed what a model needs that fits none of them."""
    if len(sizes) < 2:
        return f"{gib_text(sum(sizes))} free"
    return f"the emptiest of {len(sizes)} GPUs has {gib_text(max(sizes))} free, all of them {gib_text(sum(sizes))}"


def _visible(reason: str, names: Sequence[str], shown: Callable[[str], str]) -> str:
    for name in names:
        reason = reason.replace(name, shown(name))
    return reason
