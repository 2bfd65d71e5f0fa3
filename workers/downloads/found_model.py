"""FoundModel: what a name means in a repository."""

from __future__ import annotations

from dataclasses import dataclass

from app.entities.model_name import folded
from app.entities.repository import Repository
from app.use_cases.downloads.choice import RepositoryModel, models_of
from app.use_cases.downloads.model_names import models_by_folded_name


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model, and the repository that it was found in."""

    repository: Repository
    model: RepositoryModel

    @property
    def folded_names(self) -> frozenset[str]:
        """All names that mean this model of its repository, also the repository's own for its default model."""
        paths = [each.path for each in models_of(self.repository)]
        by_name = models_by_folded_name(self.repository.repo, paths)
        return frozenset({folded(self.model.name), *(n for n, at in by_name.items() if paths[at] == self.model.path)})
