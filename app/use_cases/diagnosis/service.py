"""A running service, and the unit that starts it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from app.use_cases.diagnosis.finding import Finding, Level, good, problem, warning, with_fix_of


@dataclass(frozen=True, slots=True)
class RunningService:
    """What a service says of itself in /health. `reasons`: None if it tells them to nobody without a key."""

    url: str
    version: str = ""
    degraded: bool = False
    reasons: Sequence[str] | None = None
    engine: str = ""
    is_driver_replaced: bool = False  # since it started


@dataclass(frozen=True, slots=True)
class InstalledUnit:
    """The systemd unit. `path`: "" if none is installed."""

    path: str = ""
    differs: bool = False  # from the one of this version
    program: str = ""  # of ExecStart=
    has_program: bool = True
    state: str = ""  # as systemctl is-active says; "" where systemd does not run
    is_of_user: bool = False
    lingers: bool = False  # the user's services run without a login
    environment: str = ""  # the file with its variables


def service_findings(service: RunningService | None, version: str, engine: str) -> list[Finding]:
    """`version` and `engine`: of this program. None: no service answers, which is no finding."""
    if service is None:
        return []
    text = f"version {service.version or 'unknown'} answers at {service.url}"
    if not service.degraded:
        found = [good("service", f"{text}; not degraded")]
    elif service.reasons is None:
        fix = "set LLAMA_SMART_PROXY_API_KEY to a key, and run doctor again"
        found = [warning("service", f"{text}; it is degraded, and says why only to a key", fix)]
    else:
        found = [with_fix_of(Level.PROBLEM, "service", f"degraded: {reason}") for reason in service.reasons]
    return [*found, *_older(service, version, engine)]


def _older(service: RunningService, version: str, engine: str) -> Iterator[Finding]:
    if service.version and service.version != version:
        text = f"version {service.version} runs, {version} is installed"
        yield warning("service", text, "restart it: sudo systemctl restart llama-smart-proxy")
    if service.engine and engine and service.engine != engine:
        yield good("service", f"its engine is {service.engine}; {engine} is used from the next load on")
    if service.is_driver_replaced:
        text = "the NVIDIA driver was replaced since it started: new loads may find no GPU"
        yield problem("service", text, "reboot, or load the new module and restart the service")


def unit_findings(unit: InstalledUnit, user: str) -> list[Finding]:
    if not unit.path:
        text = "not installed: the service runs while `llama-smart-proxy serve` does"
        return [good("systemd", text, "sudo llama-smart-proxy install-service")]
    found = [*_program(unit), *_linger(unit, user)]
    if unit.differs:
        fix = "llama-smart-proxy install-service --dry-run shows the difference; --force replaces it"
        found.append(warning("systemd", f"{unit.path} differs from the unit of this version", fix))
    if unit.state == "failed":
        found.append(problem("systemd", "the unit has failed", "journalctl -u llama-smart-proxy -n 50"))
    state = f", {unit.state}" if unit.state else ""
    return found or [good("systemd", f"{unit.path}{state}", _hint(unit))]


def _program(unit: InstalledUnit) -> Iterator[Finding]:
    if not unit.has_program:
        text = f"{unit.path} starts {unit.program}, which does not exist or cannot be run"
        yield problem("systemd", text, "correct ExecStart=: sudo systemctl edit llama-smart-proxy")


def _linger(unit: InstalledUnit, user: str) -> Iterator[Finding]:
    if unit.is_of_user and not unit.lingers:
        yield warning("systemd", "it ends when you log out", f"loginctl enable-linger {user}")


def _hint(unit: InstalledUnit) -> str:
    return f"its settings: {unit.environment}; this report is about yours" if unit.environment else ""
