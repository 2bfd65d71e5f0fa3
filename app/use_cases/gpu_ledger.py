"""The ledger of the GPUs: what NVML shows, less what loading servers have yet to take, less what is never lent.

    claimed(g) = sum, over servers that are loading on g, of max(0, booked - what NVML shows for its process)
    usable(g)  = min(free(g) - claimed(g) - reserve, max_vram - all that is booked on g, leaving ones included)

A claim ends with the first reading after its server became ready: from then on what is free lacks the bytes, whoever
NVML attributes them to. Strangers need no line of their own: what they hold is not free.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from app.entities.gpu import Gpu, GpuSnapshot
from app.entities.placement import Card, Resident, Rules


@dataclass(frozen=True, slots=True)
class Booking:
    """What one of our llama-servers has booked on GPUs, and how it is with it."""

    server: int
    model: str
    booked_bytes: Mapping[str, int]  # by UUID
    pid: int | None = None
    ready_at: float | None = None  # monotonic seconds; None: it is loading
    is_leaving: bool = False  # told to end
    is_busy: bool = False
    is_pinned: bool = False
    idle_seconds: float = 0.0


def cards(snapshot: GpuSnapshot, bookings: Iterable[Booking], rules: Rules) -> tuple[Card, ...]:
    """The GPUs as a decision sees them. One whose memory NVML does not tell is none to book on."""
    booked = tuple(bookings)
    return tuple(
        _card(gpu, snapshot.at, [each for each in booked if gpu.uuid in each.booked_bytes], rules)
        for gpu in snapshot.gpus
        if gpu.total_bytes is not None and gpu.free_bytes is not None
    )


def residents(snapshot: GpuSnapshot, bookings: Iterable[Booking]) -> tuple[Resident, ...]:
    """Our servers on them, those on their way out aside: what comes back when one goes."""
    gpus = {gpu.uuid: gpu for gpu in snapshot.gpus}
    return tuple(
        Resident(
            each.server,
            each.model,
            {uuid: _held(each, gpus[uuid]) for uuid in each.booked_bytes if uuid in gpus},
            each.is_busy or each.ready_at is None,
            each.idle_seconds,
            each.is_pinned,
        )
        for each in bookings
        if not each.is_leaving
    )


def _card(gpu: Gpu, at: float, ours: Sequence[Booking], rules: Rules) -> Card:
    assert gpu.total_bytes is not None and gpu.free_bytes is not None
    claimed = sum(_claim(each, gpu, at) for each in ours)
    booked = sum(each.booked_bytes[gpu.uuid] for each in ours)
    most = gpu.total_bytes - rules.reserve_bytes
    usable = gpu.free_bytes - claimed - rules.reserve_bytes
    if rules.max_vram_bytes is not None:
        most, usable = min(most, rules.max_vram_bytes), min(usable, rules.max_vram_bytes - booked)
    return Card(
        uuid=gpu.uuid,
        name=gpu.name,
        index=gpu.index,
        total_bytes=max(0, most),
        usable_bytes=max(0, usable),
        leaving_bytes=sum(_held(each, gpu) for each in ours if each.is_leaving),
        is_busy=(gpu.utilization_percent or 0) >= 100 * rules.busy_utilization,
    )


def _claim(booking: Booking, gpu: Gpu, at: float) -> int:
    """What it will take and what is free does not lack yet."""
    is_all_shown = booking.ready_at is not None and at > booking.ready_at
    return 0 if is_all_shown else max(0, booking.booked_bytes[gpu.uuid] - (_shown(booking, gpu) or 0))


def _held(booking: Booking, gpu: Gpu) -> int:
    """What NVML shows for it; where it shows no processes, what was booked, but for a loading one nothing."""
    shown = _shown(booking, gpu)
    if shown is not None:
        return shown
    return booking.booked_bytes[gpu.uuid] if booking.ready_at is not None else 0


def _shown(booking: Booking, gpu: Gpu) -> int | None:
    return (gpu.processes or {}).get(booking.pid) if booking.pid is not None else None
