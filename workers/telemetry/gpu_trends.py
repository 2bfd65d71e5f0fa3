"""GpuTrends: ten minutes of each GPU's figures in steps of five seconds, for charts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from statistics import fmean

from app.entities.gpu import Gpu, GpuSnapshot, GpuState

INTERVAL_SECONDS = 5
POINTS = 120

Trend = Mapping[str, list[float | None]]  # by figure, the oldest point first; None: not read


@dataclass(frozen=True, slots=True)
class _Point:
    step: int  # INTERVAL_SECONDS since the epoch of the monotonic clock
    lasts_steps: int  # until the next reading
    figures: Mapping[str, float | None]


class GpuTrends:
    """Written by the thread `gpus` alone, with each of its readings; others read what is published."""

    def __init__(self) -> None:
        self._step = 0  # of the readings below
        self._readings: dict[str, list[Gpu]] = {}  # by UUID
        self._lasts_steps = 1
        self._published: Mapping[str, tuple[_Point, ...]] = {}  # by UUID; replaced whole

    def add(self, snapshot: GpuSnapshot) -> None:
        """GPUs that are asleep, or do not answer, have no points."""
        if snapshot.state is not GpuState.OK:
            return
        step = int(snapshot.at // INTERVAL_SECONDS)
        if step != self._step:
            self._publish(step)
        self._lasts_steps = ceil((snapshot.poll_seconds or INTERVAL_SECONDS) / INTERVAL_SECONDS)
        for gpu in snapshot.gpus:
            self._readings.setdefault(gpu.uuid, []).append(gpu)

    def _publish(self, next_step: int) -> None:
        new = {uuid: _Point(self._step, self._lasts_steps, _figures(gpus)) for uuid, gpus in self._readings.items()}
        self._step, self._readings = next_step, {}
        points = {
            uuid: (*self._published.get(uuid, ()), *([new[uuid]] if uuid in new else []))
            for uuid in {**self._published, **new}
        }
        recent = {uuid: tuple(p for p in each if p.step >= next_step - POINTS) for uuid, each in points.items()}
        self._published = {uuid: each for uuid, each in recent.items() if each}

    def trends(self, now: float) -> dict[str, Trend]:
        """The last POINTS complete steps before `now` (monotonic seconds), by UUID."""
        end = int(now // INTERVAL_SECONDS)
        return {uuid: _trend(points, range(end - POINTS, end)) for uuid, points in self._published.items()}


def _figures(readings: list[Gpu]) -> dict[str, float | None]:
    """Averages; of memory the last."""
    return {
        "utilization_percent": _average([gpu.utilization_percent for gpu in readings]),
        "used_bytes": readings[-1].used_bytes,
        "power_watts": _average([gpu.power_watts for gpu in readings]),
    }


def _average(values: list[int | None] | list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(fmean(known), 1) if known else None


def _trend(points: tuple[_Point, ...], steps: range) -> Trend:
    """A point counts until the next one is due: GPUs may be read less often than every five seconds."""
    at: dict[int, Mapping[str, float | None]] = {}
    for point in points:
        at |= dict.fromkeys(range(point.step, point.step + point.lasts_steps), point.figures)
    names = points[0].figures
    return {name: [at[step][name] if step in at else None for step in steps] for name in names}
