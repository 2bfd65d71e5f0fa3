"""A lower bound on the loads of every policy whose longest wait does not exceed a given one.

If W is the longest wait, all models requested within a window [t, t + T] have started answering by t + T + W. Those not
in memory at t must start to load in (t, t + T + W]. Memory holds at most the whole machine's bytes at t, so at least
the models that are left over when the smallest ones fill the machine must be loaded. The loads of windows whose spans
do not overlap add up; the best sequence of windows is chosen. All cards count as one, and each model with its smallest
size: no placement on real cards holds more. The bound need not be attainable.
"""

from __future__ import annotations

from bisect import bisect_left

from bench.scheduling.arrivals import Request
from bench.scheduling.machines import Machine, Subject

WINDOWS = (0, 5, 10, 20, 40, 80, 160, 320, 640)
STEP_SECONDS = 10.0


def least_loads(requests: tuple[Request, ...], machine: Machine, worst_wait: float) -> int:
    """The largest number of loads that the windows force; each model's first load always counts."""
    times = [each.at for each in requests]
    begins = sorted({int(at / STEP_SECONDS) * STEP_SECONDS for at in times})
    starts, values = [float("inf")], [0]  # values[i]: the most loads forced from starts[i] on; starts decreases
    for begin in reversed(begins):
        first = bisect_left(times, begin)
        best = values[-1]
        for seconds in WINDOWS:
            last = bisect_left(times, begin + seconds)
            held = machine.bytes if begin > times[0] else 0  # nothing is loaded before the first request
            forced = _forced({each.subject for each in requests[first:last]}, held)
            after = _value_from(starts, values, begin + seconds + worst_wait)
            best = max(best, forced + after)
        starts.append(begin)
        values.append(best)
    return max(values[-1], len({each.subject for each in requests}))


def _forced(subjects: set[Subject], free_bytes: int) -> int:
    """How many of these are left over when the smallest fill the free memory."""
    held = 0
    for subject in sorted(subjects, key=lambda each: each.gpu_bytes):
        free_bytes -= subject.gpu_bytes
        if free_bytes < 0:
            break
        held += 1
    return len(subjects) - held


def _value_from(starts: list[float], values: list[int], at: float) -> int:
    """The most loads forced by windows that start at or after `at`; `starts` is decreasing."""
    low, high = 0, len(starts)
    while low < high:
        middle = (low + high) // 2
        if starts[middle] >= at:
            low = middle + 1
        else:
            high = middle
    return values[low - 1]
