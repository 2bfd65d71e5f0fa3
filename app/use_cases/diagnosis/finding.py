"""Finding: one line of `doctor`'s report, with the fix where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

KERNEL_LOG = "sudo dmesg | grep -iE 'nvrm|xid'"


class Level(StrEnum):
    OK = "ok"
    WARNING = "warn"
    PROBLEM = "FAIL"  # something does not work


@dataclass(frozen=True, slots=True)
class Finding:
    level: Level
    subject: str
    text: str
    fix: str = ""  # a command, or what to change

    def lines(self) -> list[str]:
        """As text, at most two lines."""
        said = [f"{self.level:<4}  {self.subject}: {self.text}".replace("\n", " ")]
        return [*said, f"      -> {self.fix}"] if self.fix else said

    def as_json(self) -> dict[str, str]:
        return {"level": self.level.lower(), "subject": self.subject, "text": self.text, "fix": self.fix}


def good(subject: str, text: str, fix: str = "") -> Finding:
    return Finding(Level.OK, subject, text, fix)


def warning(subject: str, text: str, fix: str = "") -> Finding:
    return Finding(Level.WARNING, subject, text, fix)


def problem(subject: str, text: str, fix: str = "") -> Finding:
    return Finding(Level.PROBLEM, subject, text, fix)


def with_fix_of(level: Level, subject: str, text: str, fix: str = "") -> Finding:
    """A finding in the words of another part of the service, whose advice, if the text ends with one, is the fix."""
    for mark in (" Next: ", "; to run it on the CPU, ", "; to run without it: ", "; install ", "; did you mean "):
        said, found, advice = text.partition(mark)
        if found:
            advice = f"{found.removeprefix(' Next: ').removeprefix('; ')}{advice}"
            return Finding(level, subject, said.rstrip("."), fix or advice)
    return Finding(level, subject, text, fix)


def totals_line(findings: Sequence[Finding]) -> str:
    """The last line of the report: "1 problem, 2 warnings"."""
    problems, warnings = (count_of(level, findings) for level in (Level.PROBLEM, Level.WARNING))
    counts = [_counted(problems, "problem"), _counted(warnings, "warning")]
    return ", ".join(filter(None, counts)) or "no problems"


def count_of(level: Level, findings: Sequence[Finding]) -> int:
    return sum(finding.level is level for finding in findings)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}" if number else ""
