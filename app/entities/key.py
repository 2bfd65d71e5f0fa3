"""ApiKey: a client's key and its permissions."""

from __future__ import annotations

from dataclasses import dataclass

from app.entities.model_name import covers


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One configured key; only its hash is stored."""

    name: str
    sha256: str  # of the key's UTF-8 bytes, lower-case hex
    models: tuple[str, ...] = ("*",)  # globs over model names
    admin: bool = False  # may load and unload models
    requests_per_minute: int = 600  # inference only
    tokens_per_day: int | None = None  # of prompts and answers, per UTC day; None: no limit

    @property
    def is_limited(self) -> bool:
        """Whether there may be models that the key may not use."""
        return "*" not in self.models

    def allows(self, *names: str) -> bool:
        """Whether the key may use the model with these names, globs among its aliases included."""
        return any(covers(glob, name) for name in names for glob in self.models)
