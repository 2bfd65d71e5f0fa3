"""Downloads one file of a repository into the Hugging Face cache, from where an earlier try ended.

Not by hf_hub_download: since huggingface_hub 2.0 that writes to a file of its own, which it deletes when it is
interrupted, and so begins each time with the first byte. The rest is huggingface_hub's: the addresses, the headers with
the token, the client with its proxies and certificates, the layout of the cache and its locks.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]

from app.entities.repository import RepositoryFile
from app.errors import DownloadFailed
from app.use_cases.downloads.disk import disk_problem
from app.use_cases.downloads.retries import MAX_TRIES, pause_seconds
from workers.downloads.answers import raise_for_status, received_head
from workers.downloads.cache_layout import RepositoryFolder
from workers.downloads.failures import retry_after_header
from workers.downloads.shown_address import without_password

# Of one request. The hub refuses to send more than 50 GB at once (huggingface_hub 2.4.0, MAX_HTTP_DOWNLOAD_SIZE), and
# the address to which it redirects is valid for an hour.
RANGE_BYTES = 8 * 1024**3
SPACE_CHECK_BYTES = 64 * 1024**2  # so often the disk is looked at
_RETRIED_STATUS = (408, 429, 500, 502, 503, 504)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file at one revision, and where it goes."""

    folder: RepositoryFolder
    commit: str
    file: RepositoryFile
    etag: str  # SHA-256 of the file; git's SHA-1 of a small one

    @property
    def url(self) -> str:
        return hf_hub_url(self.folder.repo, self.file.path, revision=self.commit)


def source_of(folder: RepositoryFolder, commit: str, file: RepositoryFile) -> HubFile:
    """Asks the server only for the ETag of a file whose SHA-256 is not known. Raises InvalidAnswer, and what
    huggingface_hub raises."""
    folder.pointer(commit, file.path)
    if file.sha256:
        return HubFile(folder, commit, file, file.sha256)
    found = get_hf_file_metadata(hf_hub_url(folder.repo, file.path, revision=commit), retry_on_errors=True)
    return HubFile(folder, commit, file, found.etag or "")


class Transfer:
    """Downloads files, one after the other."""

    def __init__(self, reserve_bytes: int, say: Callable[[str, str], None]) -> None:
        """`reserve_bytes`: what stays free of the disk. `say`: called with ("downloading" | "verifying", path) and
        ("waiting", why)."""
        self._reserve_bytes = reserve_bytes
        self._say = say

    def download(self, source: HubFile) -> None:
        """Have the file's blob in the cache, checked. Another process that downloads it now is waited for.

        Raises DownloadFailed, OSError, and what huggingface_hub raises."""
        blob, lock = source.folder.blob(source.etag), source.folder.lock(source.etag)
        blob.parent.mkdir(parents=True, exist_ok=True)
        lock.parent.mkdir(parents=True, exist_ok=True)
        if source.folder.is_locked(source.folder.partial(source.etag)):
            self._say("waiting", "another process is downloading this file")
        with WeakFileLock(lock):
            self._say("downloading", source.file.path)
            if not blob.exists():
                self._download_checked(source, blob)

    def _download_checked(self, source: HubFile, blob: Path) -> None:
        partial = source.folder.partial(source.etag)
        for _ in range(2):
            self._receive_all(source, partial)
            self._say("verifying", source.file.path)
            if (found := _digest(partial, source.etag)) == source.etag:
                _move_in_place(partial, blob)
                return
            partial.unlink()
            self._say("downloading", source.file.path)
        raise DownloadFailed(
            f"{source.file.path} had a wrong checksum twice ({found[:12]}... instead of {source.etag[:12]}...) and was "
            "deleted; something between this machine and the server changes it: a proxy, or a bad disk"
        )

    def _receive_all(self, source: HubFile, partial: Path) -> None:
        """Append to the partial file until it is complete. A try that brought bytes is followed by a new first one."""
        size, tries = source.file.size_bytes, 0
        if not size:
            raise DownloadFailed(f"{source.file.path} is empty, or the server does not say its size")
        while (have := _size(partial)) != size:
            failure = self._try(source, partial, discard=have > size)
            tries = 0 if have < _size(partial) <= size else tries + 1
            if tries == MAX_TRIES:
                raise failure or DownloadFailed(f"{source.file.path}: the server sends less than it announces")
            if failure:
                self._wait(failure, tries)
                self._say("downloading", source.file.path)

    def _try(self, source: HubFile, partial: Path, discard: bool) -> httpx2.TransportError | HfHubHTTPError | None:
        """One request; returns what a later one may not meet. Raises what every one would."""
        try:
            with open(partial, "wb" if discard else "ab", buffering=0) as target:  # its size says how far it is
                self._receive(source, target)
        except httpx2.TransportError as error:
            return error
        except HfHubHTTPError as error:
            if error.response.status_code not in _RETRIED_STATUS:
                raise
            return error
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            problem = self._disk_problem(source, partial) or f"{partial.parent} takes no more: {error.strerror}"
            raise DownloadFailed(problem) from error
        return None

    def _wait(self, error: httpx2.TransportError | HfHubHTTPError, tries: int) -> None:
        retry_after = retry_after_header(error.response) if isinstance(error, HfHubHTTPError) else None
        seconds = pause_seconds(tries, retry_after, random.random())
        self._say("waiting", f"{_reason(error)}; trying again in {seconds:.0f} s")
        time.sleep(seconds)

    def _receive(self, source: HubFile, target: FileIO) -> None:
        """One request: append what the server sends."""
        begin = target.tell()
        end = min(source.file.size_bytes, begin + RANGE_BYTES)
        headers = build_hf_headers(library_name="llama-smart-proxy") | {
            "Range": f"bytes={begin}-{end - 1}",
            "Accept-Encoding": "identity",
        }
        timeout = httpx2.Timeout(constants.HF_HUB_DOWNLOAD_TIMEOUT)
        with received_head(source.url, headers, timeout) as response:
            raise_for_status(response)
            if response.status_code == 206:
                self._write_range(response, target, begin, end, source)
            else:
                self._write_rest(response, target, begin, source)

    def _write_range(self, response: httpx2.Response, target: FileIO, begin: int, end: int, source: HubFile) -> None:
        if not response.headers.get("Content-Range", "").startswith(f"bytes {begin}-"):
            raise DownloadFailed(f"{source.file.path}: the server answered another range than asked for")
        self._write(response.iter_raw(), target, end - begin, source)

    def _write_rest(self, response: httpx2.Response, target: FileIO, begin: int, source: HubFile) -> None:
        """Of an answer that is the whole file, as of some caches. One that is shorter is none of it: a page of a
        network that wants a login, say."""
        self._write(_after(begin, response.iter_raw()), target, source.file.size_bytes - begin, source)
        if target.tell() < source.file.size_bytes:
            target.truncate(begin)

    def _write(self, chunks: Iterator[bytes], target: FileIO, expected: int, source: HubFile) -> None:
        unchecked = SPACE_CHECK_BYTES
        for chunk in chunks:
            if unchecked >= SPACE_CHECK_BYTES:
                self._check_space(target, source)
                unchecked = 0
            _write_all(target, chunk[:expected])  # a server that sends more: its checksum is wrong, too
            expected -= len(chunk)
            unchecked += len(chunk)
            if expected <= 0:
                return

    def _check_space(self, target: FileIO, source: HubFile) -> None:
        if shutil.disk_usage(target.fileno()).free < self._reserve_bytes:
            raise DownloadFailed(self._disk_problem(source, Path(target.name)) or "the disk is almost full")

    def _disk_problem(self, source: HubFile, partial: Path) -> str:
        """ "" if there is room by now, or if it is a quota that is exhausted."""
        missing = source.file.size_bytes - _size(partial)
        return disk_problem(
            missing, shutil.disk_usage(partial.parent).free, self._reserve_bytes, str(source.folder.cache)
        )


def _after(count: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Without the first `count` bytes."""
    for chunk in chunks:
        if rest := chunk[count:]:
            yield rest
        count = max(0, count - len(chunk))


def _write_all(target: FileIO, chunk: bytes) -> None:
    """A disk that is almost full takes a part of it."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[target.write(rest) :]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _digest(path: Path, etag: str) -> str:
    """In the form of the ETag: SHA-256, or git's SHA-1 of a blob."""
    with open(path, "rb") as file:
        if len(etag) == hashlib.sha256().digest_size * 2:
            return hashlib.file_digest(file, "sha256").hexdigest()
        header = b"blob %d\0" % os.fstat(file.fileno()).st_size
        return hashlib.file_digest(file, lambda: hashlib.sha1(header, usedforsecurity=False)).hexdigest()


def _move_in_place(partial: Path, blob: Path) -> None:
    """On the disk first: after a power failure, a file under its final name is complete."""
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    partial.replace(blob)


def _reason(error: Any) -> str:
    if isinstance(error, HfHubHTTPError):
        return f"the server answered {error.response.status_code}"
    return f"the connection failed ({without_password(str(error)) or type(error).__name__})"
