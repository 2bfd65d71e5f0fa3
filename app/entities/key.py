"""ApiKey: who may ask, for which models, and what else."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key of the configuration: its hash, never itself."""

    name: str
    sha256: str  # of the key's UTF-8 bytes, lower-case hex
    models: tuple[str, ...] = ("*",)  # globs over model names
    admin: bool = False  # may load and unload models
    requests_per_minute: int = 600  # inference only

    def allows(self, *names: str) -> bool:
        """Whether it may use the model that goes by these names."""
        return any(fnmatchcase(name, glob) for name in names for glob in self.models)
