"""Where the Hugging Face cache has the files of a repository, as huggingface_hub documents it.

    models--user--repo/blobs/ETAG                   a file's bytes; the ETag is the SHA-256 of large files
    models--user--repo/blobs/ETAG.incomplete        the first part of them; huggingface_hub 2 has ETAG.RANDOM.incomplete
    models--user--repo/snapshots/COMMIT/PATH        links to ../../blobs/ETAG
    models--user--repo/refs/main                    the commit that is current
    .locks/models--user--repo/ETAG.lock             held by the process that downloads the file

https://huggingface.co/docs/huggingface_hub/guides/manage-cache (2.4). What a server says becomes part of these paths,
so it is checked here.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

SHA256_DIGITS = 64
_ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPO = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


class InvalidAnswer(Exception):
    """A server said what cannot become the name of a file."""


@dataclass(frozen=True, slots=True)
class RepositoryFolder:
    """The folder of one repository in a cache."""

    cache: Path
    repo: str  # "user/repo"

    @property
    def path(self) -> Path:
        return self.cache / self._name

    @property
    def is_valid(self) -> bool:
        return _REPO.fullmatch(self.repo) is not None and ".." not in self.repo

    @property
    def _name(self) -> str:
        if not self.is_valid:
            raise InvalidAnswer(f"{self.repo!r} is not the name of a repository")
        return f"models--{self.repo.replace('/', '--')}"

    def blob(self, etag: str) -> Path:
        if not _ETAG.fullmatch(etag):
            raise InvalidAnswer(f"the server sent {etag[:80]!r} as a file's ETag, which is neither SHA-1 nor SHA-256")
        return self.path / "blobs" / etag

    def partial(self, etag: str) -> Path:
        """What has come so far."""
        return self.blob(f"{etag}").with_name(f"{etag}.incomplete")

    def lock(self, etag: str) -> Path:
        return self.cache / ".locks" / self._name / f"{self.blob(etag).name}.lock"

    def partials(self) -> list[Path]:
        """All unfinished files, also those that huggingface_hub left."""
        return sorted((self.path / "blobs").glob("*.incomplete"))

    def is_locked(self, partial: Path) -> bool:
        """Whether a process downloads it now."""
        lock = self.cache / ".locks" / self._name / f"{partial.name.partition('.')[0]}.lock"
        try:
            with open(lock, "rb+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # there is none, or the file system has no locks
            return False
        return False

    def pointer(self, commit: str, path: str) -> Path:
        """The link of a file in a snapshot."""
        if not _COMMIT.fullmatch(commit):
            raise InvalidAnswer(f"the server sent {commit[:80]!r} as a commit")
        parts = path.split("/")
        if not all(parts) or any(part in (".", "..") or "\0" in part for part in parts):
            raise InvalidAnswer(f"the server sent {path[:80]!r} as the path of a file")
        return self.path.joinpath("snapshots", commit, *parts)

    def bytes_present(self, etag: str) -> int:
        """How many bytes of a file are here; also those that another process is just downloading."""
        for path in (self.blob(etag), self.partial(etag)):
            try:
                return path.stat().st_size
            except OSError:
                continue
        return 0

    def link(self, etag: str, commit: str, path: str) -> None:
        """Make the file appear in the snapshot. Raises OSError."""
        blob, pointer = self.blob(etag), self.pointer(commit, path)
        pointer.parent.mkdir(parents=True, exist_ok=True)
        if pointer.exists():
            return
        pointer.unlink(missing_ok=True)  # a broken link
        try:
            pointer.symlink_to(os.path.relpath(blob, pointer.parent))
        except PermissionError:  # a file system without links: there the snapshot has the file itself
            blob.replace(pointer)

    @property
    def main(self) -> str:
        """The current commit; "" if there is none."""
        try:
            return (self.path / "refs" / "main").read_text(errors="replace")[:80].strip()
        except OSError:
            return ""

    def is_current(self, etag: str, path: str) -> bool:
        """Whether this is what the current snapshot has at that path."""
        if not _COMMIT.fullmatch(self.main):
            return False
        pointer = self.pointer(self.main, path)
        return pointer.is_symlink() and pointer.exists() and os.path.basename(os.readlink(pointer)) == etag

    def set_main(self, commit: str) -> None:
        """Make a commit the current one. Raises OSError."""
        ref = self.path / "refs" / "main"
        ref.parent.mkdir(parents=True, exist_ok=True)
        new = ref.with_name(f"main.{secrets.token_hex(4)}.tmp")
        new.write_text(commit)
        new.replace(ref)


@dataclass(frozen=True, slots=True)
class CachedFile:
    """A file of a snapshot."""

    repo: str  # "user/repo"
    path: str  # in the repository
    sha256: str  # "" if the cache does not tell


def cached_file(cache: Path, path: str) -> CachedFile | None:
    """What a path in the cache stands for; None for one elsewhere."""
    try:
        folder, snapshots, _, *inside = Path(os.path.abspath(path)).relative_to(os.path.abspath(cache)).parts
    except ValueError:
        return None
    if not folder.startswith("models--") or snapshots != "snapshots" or not inside:
        return None
    blob = os.path.basename(os.readlink(path)) if os.path.islink(path) else ""
    repo = folder.removeprefix("models--").replace("--", "/")
    return CachedFile(repo, "/".join(inside), blob if len(blob) == SHA256_DIGITS else "")


def free_bytes(cache: Path) -> int:
    """Of the file system that the cache is on, or will be on."""
    folder = next(each for each in (cache, *cache.parents) if each.exists())
    return shutil.disk_usage(folder).free
