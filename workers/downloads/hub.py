"""The Hugging Face hub, or a mirror of it (HF_ENDPOINT): what a repository has, and ranges of its files.

The token is that of the environment or of `hf auth login`, as for huggingface_hub's own calls; it is sent to the hub
alone, not to the storage to which the hub redirects. Everything that a server sends is bounded, in bytes and in time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from urllib.parse import quote

import httpx2
from huggingface_hub import constants, hf_hub_url
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from app.entities.repository import Repository, RepositoryFile
from app.errors import DownloadFailed
from workers.downloads.answers import raise_for_status, received_head
from workers.downloads.failures import failure_of, retry_after_header
from workers.downloads.shown_address import without_password

MAX_ANSWER_BYTES = 16 << 20  # a description of a repository with 10,000 files has 5 MB
MAX_FILES = 20_000
SILENCE_SECONDS = 10.0  # between two pieces of an answer
ANSWER_SECONDS = 30.0  # for a whole description
PAUSES = (0.5, 2.0)  # before another try, after which a person would be kept waiting
MAX_PAUSE_SECONDS = 5.0  # of those that a server asks for
TEMPORARY = frozenset({429, 500, 502, 503, 504})
MAX_FILE_BYTES = 1 << 50
MAX_PATH_LENGTH = 1024  # Linux has no longer file names than 255 bytes
COMMIT_LENGTH, SHA256_LENGTH = 40, 64  # hexadecimal digits


class Hub:
    """Thread-safe. All methods raise ModelNotFound and DownloadFailed."""

    def __init__(self, endpoint: str | None = None) -> None:
        """`endpoint`: None for HF_ENDPOINT."""
        self.endpoint = (endpoint or constants.ENDPOINT).rstrip("/")

    @property
    def shown_endpoint(self) -> str:
        """In messages."""
        return without_password(self.endpoint)

    def repository(self, repo: str, revision: str = "main") -> Repository:
        """The files of "user/repo" with their sizes and checksums, at the revision that is current now."""
        address = f"{self.endpoint}/api/models/{repo}/revision/{quote(revision, safe='')}?blobs=true"
        deadline = time.monotonic() + ANSWER_SECONDS
        with self.open(address, repo) as response:
            body = b"".join(bounded_pieces(response, MAX_ANSWER_BYTES, deadline, repo))
        try:
            return _repository(repo, json.loads(body))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DownloadFailed(
                f"{repo} cannot be downloaded: {self.shown_endpoint} does not describe it as Hugging Face does "
                f"({error})"
            ) from error

    def file_address(self, repository: Repository, path: str) -> str:
        """Where a file of this revision is; the hub redirects to its storage."""
        return hf_hub_url(repository.repo, path, revision=repository.revision, endpoint=self.endpoint)

    @contextmanager
    def open(self, address: str, repo: str, headers: Mapping[str, str] | None = None) -> Iterator[httpx2.Response]:
        """An answer with a good status, its body not read; tried again a few times where that may help."""
        with ExitStack() as stack:
            yield self._answer(stack, address, repo, headers or {})

    def _answer(self, stack: ExitStack, address: str, repo: str, headers: Mapping[str, str]) -> httpx2.Response:
        """Open in `stack`."""
        for pause in (*PAUSES, None):
            try:
                response = stack.enter_context(self._stream(address, headers))
                if pause is None or response.status_code not in TEMPORARY:
                    raise_for_status(response)
                    return response
                pause = min(MAX_PAUSE_SECONDS, max(pause, retry_after_header(response) or 0.0))
            except httpx2.TransportError as error:
                if pause is None or isinstance(error, httpx2.TimeoutException):
                    raise failure_of(error, repo) from error
            except Exception as error:
                raise failure_of(error, repo) from error
            stack.close()
            time.sleep(pause)
        raise AssertionError("the last try ends it")

    @staticmethod
    def _stream(address: str, headers: Mapping[str, str]) -> AbstractContextManager[httpx2.Response]:
        """Without compression: a few bytes could become many."""
        every = {**build_hf_headers(library_name="llama-smart-proxy"), "Accept-Encoding": "identity", **headers}
        return received_head(address, every, httpx2.Timeout(SILENCE_SECONDS))


def bounded_pieces(response: httpx2.Response, count: int, deadline: float, repo: str) -> Iterator[bytes]:
    """The first `count` bytes of a body, in pieces, until `deadline` (monotonic seconds). Raises DownloadFailed."""
    left = count
    try:
        for piece in response.iter_raw():
            if time.monotonic() > deadline:
                raise DownloadFailed(f"{repo} cannot be downloaded: {response.url.host} answers too slowly")
            yield piece[:left]
            left -= len(piece)
            if left <= 0:
                return
    except httpx2.TransportError as error:
        raise failure_of(error, repo) from error


def _repository(repo: str, said: Mapping[str, Any]) -> Repository:
    """Raises ValueError, TypeError, KeyError and AttributeError for what the hub does not say so."""
    files = said["siblings"]
    if len(files) > MAX_FILES:
        raise ValueError(f"it has {len(files)} files")
    revision = said["sha"]
    if not _is_hash(revision, COMMIT_LENGTH):
        raise ValueError("it names no commit")
    # The repository's own spelling of its name: huggingface.co finds it in any case, and folders are named by it.
    name = said.get("id")
    is_same = isinstance(name, str) and name.isascii() and name.lower() == repo.lower()
    return Repository(str(name) if is_same else repo, revision, tuple(filter(None, map(_file, files))))


def _is_hash(given: object, length: int) -> bool:
    return isinstance(given, str) and len(given) == length and set(given) <= set("0123456789abcdef")


def _file(said: Mapping[str, Any]) -> RepositoryFile | None:
    """None for a path that could lead out of a folder, or is none."""
    path, size, sha256 = said["rfilename"], said.get("size"), (said.get("lfs") or {}).get("sha256")
    if not isinstance(path, str) or len(path) > MAX_PATH_LENGTH or not path.isprintable():
        return None
    if set(path.split("/")) & {"", ".", ".."} or "\\" in path:
        return None
    size_bytes = size if type(size) is int and 0 <= size <= MAX_FILE_BYTES else 0
    return RepositoryFile(path, size_bytes, str(sha256) if _is_hash(sha256, SHA256_LENGTH) else "")
