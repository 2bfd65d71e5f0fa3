"""The command `doctor`: what is wrong with this installation, and the fix for each finding."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.commands.check_config import checked_configuration, config_option
from app.commands.console import json_option, print_json
from app.commands.options import ANSWER_IS_NO, exit_wrong_use
from app.commands.service_client import URL_VARIABLE, NoServiceAnswer, ask_service, base_url, configured_url
from app.terminal.text import printable

if TYPE_CHECKING:
    from app.use_cases.diagnosis.finding import Finding

SERVICE_SECONDS = 3.0
_COLOURS = {"ok": "green", "warn": "yellow", "FAIL": "red"}


@click.command()
@config_option
@json_option
def doctor(config: Path | None, as_json: bool) -> None:
    """Check this installation, and say the fix for each finding.

    Checks the configuration, the NVIDIA driver, GPUs and engine, the model files and their companions, the address,
    directories, disk space, limits of processes, the systemd unit, and the service, if it runs: one with keys says why
    it is degraded only to a key in LLAMA_SMART_PROXY_API_KEY. Changes nothing. It sees what its user and its
    environment see. Exit status: 0 nothing is wrong (there may be warnings), 1 something is wrong, 2 wrong use.
    """
    check = checked_configuration(config)
    if not check.file_exists:
        exit_wrong_use("\n".join(check.errors))
    from app.use_cases.diagnosis.finding import Level, count_of
    from workers.diagnose import diagnose

    url = base_url(os.environ.get(URL_VARIABLE) or configured_url())
    findings = diagnose(check, url, _health(url))
    if as_json:
        print_json(_as_json(findings))
    else:
        click.echo(_as_text(findings))
    sys.exit(ANSWER_IS_NO if count_of(Level.PROBLEM, findings) else 0)


def _health(url: str) -> dict[str, Any] | None:
    """What a service of ours says there; None if none answers."""
    try:
        answer = ask_service(url, "GET", "/health", timeout_seconds=SERVICE_SECONDS)
    except NoServiceAnswer:
        return None
    return answer.body if "degraded" in answer.body else None


def _as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    from app.use_cases.diagnosis.finding import Level, count_of

    counts = {"problems": count_of(Level.PROBLEM, findings), "warnings": count_of(Level.WARNING, findings)}
    return {"ok": not counts["problems"], **counts, "findings": [finding.as_json() for finding in findings]}


def _as_text(findings: Sequence[Finding]) -> str:
    from app.use_cases.diagnosis.finding import totals_line

    lines = [line for finding in findings for line in _coloured(finding)]
    return "\n".join([*lines, totals_line(findings)])


def _coloured(finding: Finding) -> list[str]:
    """Click drops the colour where stdout is no terminal."""
    first, *others = map(printable, finding.lines())
    level = str(finding.level)
    return [click.style(level, fg=_COLOURS[level]) + first.removeprefix(level), *others]
