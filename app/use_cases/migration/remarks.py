"""What the user of a converted configuration should know, one line each."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Kind(enum.StrEnum):
    CHANGED = "changed"  # has a setting that does not do quite the same
    DROPPED = "not carried over"  # has no setting
    UNNEEDED = "not needed"  # has no setting, and the service does better without one


@dataclass(frozen=True, slots=True)
class Remark:
    """`subject` is a model, or "" for the file as a whole; `what` never holds a value that may be secret."""

    kind: Kind
    subject: str
    what: str
    why: str

    def line(self) -> str:
        subject = f"{self.subject}: " if self.subject else ""
        what = f"{self.what}: " if self.what else ""
        return f"{subject}{self.kind}: {what}{self.why}"


@dataclass(slots=True)
class Remarks:
    """The remarks about one subject, as they are found."""

    subject: str = ""
    found: list[Remark] = field(default_factory=list)

    def changed(self, what: str, why: str) -> None:
        self.found.append(Remark(Kind.CHANGED, self.subject, what, why))

    def dropped(self, what: str, why: str) -> None:
        self.found.append(Remark(Kind.DROPPED, self.subject, what, why))

    def unneeded(self, what: str, why: str) -> None:
        self.found.append(Remark(Kind.UNNEEDED, self.subject, what, why))
