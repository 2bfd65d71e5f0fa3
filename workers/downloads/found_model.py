"""FoundModel: what a name means in a repository."""

from __future__ import annotations

from dataclasses import dataclass

from app.entities.repository import Repository
from app.use_cases.downloads.choice import RepositoryModel


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model, and the repository that it was found in."""

    repository: Repository
    model: RepositoryModel
