"""ConfigurationState: which configuration is in force, and what became of the last attempt to reload it."""

from __future__ import annotations

from dataclasses import dataclass

from app.entities.frozen import replace


@dataclass(frozen=True, slots=True)
class ConfigurationState:
    """Published by the start and by every reload. `errors` and `needs_restart` name settings and models."""

    loaded_at: float = 0.0  # of the configuration in force, Unix seconds
    errors: tuple[str, ...] = ()  # of the last reload; empty if it succeeded
    needs_restart: tuple[str, ...] = ()  # changed keys that take effect at the next start
    failed_reloads: int = 0  # since the start

    @property
    def problem(self) -> str:
        """Why the service is degraded; "" if the last reload succeeded."""
        if not self.errors:
            return ""
        return f"the configuration was not reloaded, the earlier one stays in force: {self.errors[0]}"

    def without_details(self) -> ConfigurationState:
        """For clients who must not see names of settings and models."""
        errors = ("it is invalid",) if self.errors else ()
        return replace(self, errors=errors, needs_restart=())
