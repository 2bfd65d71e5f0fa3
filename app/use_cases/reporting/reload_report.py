"""The account of one reload: which keys and models changed, and what a restart is needed for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.entities.model import Model


@dataclass(frozen=True, slots=True)
class ModelChanges:
    """Names of models, by what a reload does to their servers."""

    added: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()  # another file or other options: its servers end after their requests
    updated: tuple[str, ...] = ()  # other settings, which apply to running servers
    removed: tuple[str, ...] = ()  # its servers end after their requests


@dataclass(frozen=True, slots=True)
class ReloadReport:
    """A reload that was applied."""

    changed: tuple[str, ...]  # keys that are in force now
    models: ModelChanges
    needs_restart: tuple[str, ...]  # keys whose new values are not
    warnings: tuple[str, ...]  # about the configuration and about model files

    def as_json(self) -> dict[str, object]:
        models = self.models
        return {
            "success": True,
            "changed": list(self.changed),
            "models": {
                "added": list(models.added),
                "restarted": list(models.restarted),
                "updated": list(models.updated),
                "removed": list(models.removed),
            },
            "needs_restart": list(self.needs_restart),
            "warnings": list(self.warnings),
        }


def model_changes(before: Mapping[str, Model], after: Mapping[str, Model]) -> ModelChanges:
    """What changed from one catalogue to another, both by name."""
    common = {name: (before[name], model) for name, model in after.items() if name in before}
    restarted = tuple(sorted(name for name, (old, new) in common.items() if not old.is_served_as(new)))
    updated = tuple(sorted(name for name, (old, new) in common.items() if old != new and name not in restarted))
    return ModelChanges(
        added=tuple(sorted(after.keys() - before.keys())),
        restarted=restarted,
        updated=updated,
        removed=tuple(sorted(before.keys() - after.keys())),
    )
