"""Which models may be downloaded from Hugging Face repositories without an admin's order."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from app.entities.model_name import folded, glob_pattern
from app.entities.repository import RepositoryName


class DownloadRule(StrEnum):
    """The values of catalog.hugging_face.download."""

    OFF = "off"
    ALLOW = "allow"  # those that match a glob
    ON = "on"


@dataclass(frozen=True, slots=True)
class DownloadPolicy:
    """The settings that decide which models a request may have downloaded."""

    rule: DownloadRule = DownloadRule.OFF
    allow: tuple[str, ...] = ()  # globs over "user/repo" and "user/repo:QUANT"

    @property
    def allows_any(self) -> bool:
        """Whether there may be models that it allows."""
        return self.rule is DownloadRule.ON or (self.rule is DownloadRule.ALLOW and bool(self.allow))

    def allows(self, name: RepositoryName) -> bool:
        """Whether the model may be downloaded. A glob for a repository allows all of its quantizations; case does not
        matter, as on Hugging Face."""
        if self.rule is not DownloadRule.ALLOW:
            return self.rule is DownloadRule.ON
        names = folded(name.repo), folded(str(name))
        return any(glob_pattern(glob).fullmatch(each) for glob in self.allow for each in names)
