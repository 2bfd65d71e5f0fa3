"""LoadReport: how one llama-server read its model's file."""

from __future__ import annotations

from dataclasses import dataclass

from app.entities.launch import LoadMode

GIB = 1024**3
CACHED_SHARE = 0.9  # of a file in the page cache: more is read from RAM


@dataclass(frozen=True, slots=True)
class LoadReport:
    """A load that has ended, from the start of the process until it was ready."""

    mode: LoadMode  # AUTO: the engine's own way
    size_bytes: int
    seconds: float
    file_system: str = ""  # its type and where it is mounted
    cached_share: float | None = None  # of the file in the page cache when it began; None: unknown

    @property
    def bytes_per_second(self) -> float:
        return self.size_bytes / max(self.seconds, 1e-3)

    @property
    def source(self) -> str:
        """Where most of it was read from: `disk`, `cache`, or `part` of both; "" if unknown."""
        if self.cached_share is None:
            return ""
        if self.cached_share >= CACHED_SHARE:
            return "cache"
        return "disk" if 1 - self.cached_share >= CACHED_SHARE else "part"

    @property
    def text(self) -> str:
        """`18.5 GiB in 6.1 s, 3.0 GiB/s`."""
        return f"{_size(self.size_bytes)} in {self.seconds:.1f} s, {load_rate_text(self.bytes_per_second)}"


def load_rate_text(bytes_per_second: float) -> str:
    return f"{_size(bytes_per_second)}/s"


def _size(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= 0.95 * GIB else f"{size / 1024**2:.0f} MiB"
