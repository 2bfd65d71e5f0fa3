"""A download of one model: all its files, as it stands now."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class DownloadState(StrEnum):
    """In their order; the last three are final."""

    CHECKING = "checking"  # the names and headers of the files, whether the model fits, the disk
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELED = "canceled"


FINAL_STATES = frozenset({DownloadState.COMPLETE, DownloadState.FAILED, DownloadState.CANCELED})


@dataclass(frozen=True, slots=True)
class Download:
    """One download. Bytes are those of all its files; what was there before counts as done."""

    model: str  # the name that the catalogue will have for it: "user/repo:Q4_K_M"
    state: DownloadState
    started_at: float  # unix seconds
    total_bytes: int | None = None  # None: not known yet
    done_bytes: int = 0
    file: str = ""  # being downloaded, its path in the repository
    bytes_per_second: float | None = None  # over the last seconds; None: not known
    # Of a failed one: what happened, the numbers, and what to do next. Of one that runs: why it waits, and how long.
    problem: str = ""
    code: str = ""  # of a failed one: the code of its error

    @property
    def is_running(self) -> bool:
        return self.state not in FINAL_STATES

    @property
    def seconds_left(self) -> float | None:
        """None if it cannot be told."""
        if self.total_bytes is None or not self.bytes_per_second:
            return None
        return max(0, self.total_bytes - self.done_bytes) / self.bytes_per_second
