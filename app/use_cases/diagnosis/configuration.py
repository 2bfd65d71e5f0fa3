"""The configuration, as `check-config` reports it, and the permissions of its file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from app.use_cases.diagnosis.finding import Finding, good, problem, warning


@dataclass(frozen=True, slots=True)
class ConfigurationFacts:
    """`reach`: who can use the service, in words."""

    file: str = ""
    errors: Sequence[str] = ()
    warnings: Sequence[str] = ()
    reach: str = ""
    is_writable_by_others: bool = False
    exposes_secrets: bool = False  # everybody can read the file, and it has values of variables


def configuration_findings(facts: ConfigurationFacts) -> list[Finding]:
    fix = "docs/configuration.md; then llama-smart-proxy check-config"
    found = [problem("configuration", error, fix) for error in facts.errors]
    if not found:
        found.append(good("configuration", f"{facts.file or 'the defaults'}; {facts.reach}"))
    return [*found, *(warning("configuration", each) for each in facts.warnings), *_permissions(facts)]


def _permissions(facts: ConfigurationFacts) -> Iterator[Finding]:
    if facts.is_writable_by_others:
        text = f"everybody can write {facts.file}, and so choose the program that the service runs"
        yield problem("configuration", text, f"chmod go-w {facts.file}")
    if facts.exposes_secrets:
        text = f"everybody can read {facts.file}, which sets variables (env)"
        yield warning("configuration", text, f"chmod 640 {facts.file}, with the service's group")
