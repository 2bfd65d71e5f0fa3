"""DownloadCounts: what downloads came to since the start of the service, for /metrics."""

from __future__ import annotations

from app.entities.download import FINAL_STATES, Download, DownloadState


class DownloadCounts:
    """Written under the lock of the downloads, read without it. `ended`: downloads by their final state."""

    def __init__(self) -> None:
        self.ended: dict[str, int] = dict.fromkeys(sorted(FINAL_STATES), 0)
        self.received_bytes = 0

    def note(self, before: Download, after: Download) -> None:
        """A change of one download. What was there before is found while it is checked: that has not been received."""
        if after.state is not DownloadState.CHECKING:
            self.received_bytes += max(0, after.done_bytes - before.done_bytes)
        if after.state in self.ended and before.state is not after.state:
            self.ended[after.state] += 1
