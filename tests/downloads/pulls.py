"""Pulls from the Hugging Face-shaped server into a cache of its own."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.entities.download import Download, DownloadState
from app.entities.repository import Repository, RepositoryFile, RepositoryName
from app.use_cases.downloads.choice import choose_model
from tests.helpers.hub_server import HubServer
from workers.downloads.downloader import Downloader
from workers.downloads.found_model import FoundModel

REPO, FILE = "org/model-GGUF", "model-Q4_K_M.gguf"
NAME = RepositoryName(REPO, "Q4_K_M")
FOLDER = "models--org--model-GGUF"
MIB = 1024**2
DATA = os.urandom(4 * MIB)  # of the file that `repository` serves
SECONDS = 40.0  # a download takes one or two, most of them the start of its process


def listed(hub: HubServer, name: RepositoryName = NAME) -> FoundModel:
    """What the server lists, without asking it."""
    repository = hub.repos[REPO]
    files = tuple(RepositoryFile(path, each.size, each.sha256) for path, each in repository.files.items())
    found = Repository(REPO, repository.revision, files)
    return FoundModel(found, choose_model(found, name))


def downloader(hub: HubServer, cache: Path, **options: Any) -> Downloader:
    asking = {"find": lambda name: listed(hub, name), "check": lambda found: None, "plan": None}
    arguments = {**asking, "completed": lambda: None}
    return Downloader(lambda: cache, **{"reserve_bytes": 0, **arguments, **options})


def pull(found: Downloader, name: RepositoryName = NAME) -> Download:
    """Until it is complete. Raises its error."""
    found.start(name)
    ended = found.wait(name, SECONDS)
    assert ended is not None and ended.state is DownloadState.COMPLETE, ended
    return ended


def until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def snapshot_file(cache: Path, hub: HubServer, path: str = FILE) -> Path:
    return cache / FOLDER / "snapshots" / hub.repos[REPO].revision / path


def partial(cache: Path, data: bytes) -> Path:
    return cache / FOLDER / "blobs" / f"{hashlib.sha256(data).hexdigest()}.incomplete"


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
