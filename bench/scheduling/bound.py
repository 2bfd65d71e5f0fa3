"""A lower bound on loads: of every policy whose worst wait is no longer than a given one.

All that is asked for within a window [t, t + T] has been answered by t + T + W, if W is the worst wait. Whatever of it
was not in memory at t, where no more than the whole machine's bytes can be, starts to load in (t, t + T + W]: at least
as many models as are left when the smallest ones fill the machine. Windows whose spans do not overlap add up; the best
row of windows is chosen. Cards are taken as one, every model as its smallest: no place on real cards holds more. Nobody
is said to reach it.
"""

from __future__ import annotations

from bisect import bisect_left

from bench.scheduling.arrivals import Request
from bench.scheduling.machines import Machine, Subject

WINDOWS = (0, 5, 10, 20, 40, 80, 160, 320, 640)
STEP_SECONDS = 10.0


def least_loads(requests: tuple[Request, ...], machine: Machine, worst_wait: float) -> int:
    """The most that the windows force; a model's first load always counts."""
    times = [each.at for each in requests]
    begins = sorted({int(at / STEP_SECONDS) * STEP_SECONDS for at in times})
    starts, values = [float("inf")], [0]  # from a start on, the most; earlier ones come later
    for begin in reversed(begins):
        first = bisect_left(times, begin)
        best = values[-1]
        for seconds in WINDOWS:
            last = bisect_left(times, begin + seconds)
            held = machine.bytes if begin > times[0] else 0  # before the first request nothing is loaded
            forced = _forced({each.subject for each in requests[first:last]}, held)
            after = _value_from(starts, values, begin + seconds + worst_wait)
            best = max(best, forced + after)
        starts.append(begin)
        values.append(best)
    return max(values[-1], len({each.subject for each in requests}))


def _forced(subjects: set[Subject], room: int) -> int:
    """How many are left when the smallest fill the machine."""
    held = 0
    for subject in sorted(subjects, key=lambda each: each.gpu_bytes):
        room -= subject.gpu_bytes
        if room < 0:
            break
        held += 1
    return len(subjects) - held


def _value_from(starts: list[float], values: list[int], at: float) -> int:
    """The best of windows that begin at or after `at`; `starts` falls."""
    low, high = 0, len(starts)
    while low < high:
        middle = (low + high) // 2
        if starts[middle] >= at:
            low = middle + 1
        else:
            high = middle
    return values[low - 1]
