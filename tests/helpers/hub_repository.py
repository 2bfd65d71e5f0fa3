"""Repositories of the Hugging Face-shaped server, and how its API describes them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Content:
    """The bytes of a file: `head` or a file on disk, then zeros up to `size`. So a file of 400 GB costs nothing."""

    head: bytes = b""
    size: int = 0
    path: Path | None = None

    def read(self, start: int, count: int) -> bytes:
        if self.path is not None:
            with self.path.open("rb") as file:
                file.seek(start)
                return file.read(count)
        return self.head[start : start + count].ljust(count, b"\0")

    @cached_property
    def sha256(self) -> str:
        if self.size > 1 << 30:
            return hashlib.sha256(self.head + str(self.size).encode()).hexdigest()  # nobody downloads it whole
        digest = hashlib.sha256()
        for start in range(0, self.size, CHUNK_BYTES):
            digest.update(self.read(start, min(CHUNK_BYTES, self.size - start)))
        return digest.hexdigest()


def content(given: bytes | str | Path | Content) -> Content:
    if isinstance(given, Content):
        return given
    if isinstance(given, Path):
        return Content(size=given.stat().st_size, path=given)
    given = given.encode() if isinstance(given, str) else given
    return Content(given, len(given))


@dataclass
class Repo:
    """A repository at its only revision, which is also its branch `main`."""

    name: str
    files: dict[str, Content]
    gated: bool = False  # listed for everybody, its files only for `readers`
    private: bool = False  # for anybody else it does not exist
    readers: frozenset[str] = frozenset()  # tokens

    @property
    def revision(self) -> str:
        """A commit hash, which changes with the files."""
        listing = repr([(path, each.sha256) for path, each in sorted(self.files.items())])
        return hashlib.sha1(listing.encode()).hexdigest()


def info(repo: Repo, with_blobs: bool) -> dict[str, Any]:
    """As /api/models/REPO, with what clients use of it."""
    return {
        "_id": repo.revision[:24],
        "id": repo.name,
        "modelId": repo.name,
        "author": repo.name.split("/")[0],
        "sha": repo.revision,
        "lastModified": "2026-01-02T03:04:05.000Z",
        "private": repo.private,
        "gated": "manual" if repo.gated else False,
        "disabled": False,
        "tags": ["gguf"],
        "siblings": [
            {"rfilename": path, **(_blob(path, file) if with_blobs else {})}
            for path, file in sorted(repo.files.items())
        ],
    }


def _blob(path: str, file: Content) -> dict[str, Any]:
    lfs = {"sha256": file.sha256, "size": file.size, "pointerSize": 134}
    return {
        "size": file.size,
        "blobId": file.sha256[:40],
        **({"lfs": lfs} if path.lower().endswith(".gguf") else {}),
    }


def tree(repo: Repo, folder: str, query: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    """As /api/models/REPO/tree/REVISION: files below `folder`, and with `recursive` those of its subfolders."""
    prefix = f"{folder}/" if folder else ""
    found = [path for path in sorted(repo.files) if path.startswith(prefix)]
    if query.get("recursive", [""])[0].lower() not in ("true", "1"):
        found = [path for path in found if "/" not in path.removeprefix(prefix)]
    return [_entry(path, repo.files[path]) for path in found]


def _entry(path: str, file: Content) -> dict[str, Any]:
    lfs = {"oid": file.sha256, "size": file.size, "pointerSize": 134}
    entry = {"type": "file", "oid": file.sha256[:40], "size": file.size, "path": path}
    return {**entry, "lfs": lfs} if path.lower().endswith(".gguf") else entry
