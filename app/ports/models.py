"""Port of the catalogue of models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from app.entities.gguf import Value
from app.entities.model import Model


class ModelCatalog(Protocol):
    """Models by name (workers.catalog.catalog.Catalog)."""

    @property
    def knows_replicas(self) -> bool:
        """Whether any model may have several servers."""

    def find(self, name: str, may_use: Callable[[Model], bool] | None = None) -> Model:
        """The model of that name or alias; where several match, the first that the client `may_use`. Raises
        ModelNotFound."""

    @property
    def virtual_names(self) -> Mapping[str, tuple[str, ...]]:
        """The names that stand for several models, and the names of these."""

    def members(self, name: str) -> tuple[str, ...]:
        """The models that a virtual name stands for; none for any other name."""

    def models(self) -> list[Model]:
        """All of them, by name."""

    def servable(self, model: Model) -> Model:
        """The model, its header checked. Raises InvalidModelFile."""

    def metadata(self, model: Model) -> Mapping[str, Value]:
        """Of its header, without long arrays. Raises InvalidModelFile."""

    def read_headers(self, models: Sequence[Model], seconds: float) -> list[Model]:
        """The models with their facts. Headers that have not been read yet are read, for this long at most."""

    def has_replicas(self, name: str) -> bool:
        """Whether the model of that name may have several servers."""

    def reload(self) -> None:
        """Scan the folders again."""

    def rescan(self) -> bool:
        """Scan the folders again, unless a request has just caused that. Whether names may differ now."""
