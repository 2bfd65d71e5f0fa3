"""Whether a model of the Hugging Face cache has changed in its repository since it was downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from app.entities.repository import Repository


class Freshness(StrEnum):
    CURRENT = "current"
    OUTDATED = "outdated"  # a file of it has changed upstream
    REMOVED = "removed"  # a file of it is not in its repository any more
    UNKNOWN = "unknown"  # the repository could not be read, or the cache does not tell


@dataclass(frozen=True, slots=True)
class ModelUpdate:
    """What is upstream of one model."""

    model: str
    freshness: Freshness
    download_bytes: int = 0  # of the files that have changed
    problem: str = ""  # why it is not known


def compare_with_upstream(model: str, digests: Mapping[str, str], upstream: Repository) -> ModelUpdate:
    """`digests`: the SHA-256 of each file of the model, by its path in the repository; "": not known."""
    files = {file.path: file for file in upstream.files}
    if any(path not in files for path in digests):
        return ModelUpdate(model, Freshness.REMOVED)
    changed = [files[path] for path, digest in digests.items() if digest and files[path].sha256 not in ("", digest)]
    if changed:
        return ModelUpdate(model, Freshness.OUTDATED, sum(file.size_bytes for file in changed))
    if not all(digests.values()):
        return ModelUpdate(model, Freshness.UNKNOWN, problem="its files are copies, whose checksums nobody noted")
    return ModelUpdate(model, Freshness.CURRENT)
