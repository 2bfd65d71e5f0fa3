"""What the service's worker holds: memory, descriptors, threads, processes."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import psutil

MAX_GROWTH_MIB = 24.0  # of RSS, between two moments of rest
MAX_MORE_DESCRIPTORS = 8  # the prober's own connections are among them
MAX_MORE_THREADS = 8
MAX_MORE_PROCESSES = 1  # the one that reads large bodies stays once it was needed


@dataclass(frozen=True, slots=True)
class Held:
    """`zombies` and `processes`: of the whole service."""

    rss_mib: float
    fds: int
    threads: int
    processes: int
    zombies: int

    @classmethod
    def by(cls, worker: psutil.Process, master: psutil.Process) -> Held:
        family = [master, *master.children(recursive=True)]
        with worker.oneshot():
            rss = round(worker.memory_info().rss / 1024**2, 1)
            return cls(rss, worker.num_fds(), worker.num_threads(), len(family), sum(map(_is_zombie, family)))


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def growth(before: Held, after: Held) -> list[str]:
    """What grew between two moments of rest, or should not be there at rest."""
    limits = {"rss_mib": MAX_GROWTH_MIB, "fds": MAX_MORE_DESCRIPTORS, "threads": MAX_MORE_THREADS}
    limits["processes"] = MAX_MORE_PROCESSES
    was, now = asdict(before), asdict(after)
    grown = [
        f"{name} grew from {was[name]} to {now[name]}" for name, most in limits.items() if now[name] - was[name] > most
    ]
    return grown + ([f"{after.zombies} zombies"] if after.zombies else [])
