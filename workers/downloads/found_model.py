"""FoundModel: what a name means in a repository."""

from __future__ import annotations

from dataclasses import dataclass

from app.entities.repository import Repository, RepositoryFile


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model of a repository."""

    name: str  # that the catalogue will have for it: "user/repo:Q4_K_M"
    repository: Repository
    files: tuple[RepositoryFile, ...]  # all that it needs: parts, projector, draft model

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)
