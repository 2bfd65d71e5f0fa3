"""The header of a model in a repository, read by range requests: what it needs is known before a byte of its weights.

The reader is that of files (workers.gguf). A server can make it read MAX_HEADER_BYTES, for HEADER_SECONDS.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from app.entities.gguf import GgufHeader
from app.entities.repository import Repository, RepositoryFile
from app.errors import DownloadFailed
from workers.downloads.hub import Hub, bounded_pieces
from workers.gguf.file_window import FileWindow, InvalidGguf
from workers.gguf.header import read_parts

FIRST_WINDOW_BYTES = 1 << 18  # holds a header without a tokenizer
LARGEST_WINDOW_BYTES = 1 << 22  # tokenizers take 2 to 16 MB: a few round trips
MAX_HEADER_BYTES = 1 << 26  # of all parts of a model, as read
HEADER_SECONDS = 120.0


def read_remote_header(hub: Hub, repository: Repository, parts: Sequence[RepositoryFile]) -> GgufHeader:
    """The header of the model in these files: all parts of it, in order.

    Raises InvalidModelFile, as for a file on disk, and what `Hub` raises.
    """
    budget = _Budget(MAX_HEADER_BYTES, time.monotonic() + HEADER_SECONDS)

    @contextmanager
    def open_part(number: int) -> Iterator[FileWindow]:
        file = _RemoteFile(hub, repository, parts[number - 1], budget)
        yield _GrowingWindow(file.read, parts[number - 1].size_bytes, FIRST_WINDOW_BYTES)

    return read_parts([part.path.rpartition("/")[2] for part in parts], open_part)


class _GrowingWindow(FileWindow):
    """Doubles with every request: it reads no more of the weights than it read of the header."""

    def _fill(self, count: int) -> None:
        super()._fill(count)
        self._window_bytes = min(LARGEST_WINDOW_BYTES, 2 * self._window_bytes)


class _Budget:
    """What may still be read."""

    def __init__(self, left_bytes: int, deadline: float) -> None:
        self.left_bytes = left_bytes
        self.deadline = deadline  # monotonic seconds

    def take(self, count: int) -> None:
        """Raises InvalidGguf."""
        self.left_bytes -= count
        if self.left_bytes < 0:
            raise InvalidGguf(f"is damaged: its header is longer than {MAX_HEADER_BYTES >> 20} MiB")


class _RemoteFile:
    def __init__(self, hub: Hub, repository: Repository, file: RepositoryFile, budget: _Budget) -> None:
        self._hub = hub
        self._label = f"{repository.repo}:{file.path}"
        self._address = hub.file_address(repository, file.path)
        self._size_bytes = file.size_bytes
        self._budget = budget

    def read(self, count: int, start: int) -> bytes:
        """So many bytes from `start` on, fewer at the end of the file. Raises InvalidGguf and DownloadFailed."""
        stop = min(start + count, self._size_bytes)
        body = bytearray()
        for is_last in (False, True):  # what a cut connection brought is kept
            if (at := start + len(body)) < stop:
                self._budget.take(stop - at)
                self._read_once(body, at, stop, is_last)
        return bytes(body)

    def _read_once(self, body: bytearray, start: int, stop: int, is_last: bool) -> None:
        """Append what comes of a range, all of it if `is_last`."""
        with self._hub.open(self._address, self._label, {"Range": f"bytes={start}-{stop - 1}"}) as response:
            unwanted = self._unwanted(response.status_code, response.headers.get("Content-Range", ""), start)
            self._budget.take(unwanted)
            pieces = bounded_pieces(response, unwanted + stop - start, self._budget.deadline, self._label)
            try:
                for piece in pieces:  # of a server that sends the whole file, the beginning is dropped as it comes
                    dropped = min(unwanted, len(piece))
                    unwanted -= dropped
                    body += piece[dropped:]
            except DownloadFailed:
                if is_last or time.monotonic() > self._budget.deadline:
                    raise

    def _unwanted(self, status: int, content_range: str, start: int) -> int:
        """Bytes before the range that was asked for: some caches answer with the whole file. Raises DownloadFailed."""
        if status == 200:
            return start
        match = re.match(r"bytes (\d{1,20})-", content_range, re.ASCII)
        if status != 206 or match is None or int(match[1]) != start:
            raise DownloadFailed(
                f"{self._label} cannot be downloaded: the server answered another range than asked for"
            )
        return 0
