"""Warns once, at the first start after an upgrade, of changes that the configuration seems to rely on."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from app.entities.model import Model
from app.settings.changes import CHANGES
from app.settings.schema import Settings

log = logging.getLogger(__name__)

FILE = "upgrade-notices.json"


def warn_of_changes(state: Path, settings: Settings, models: Sequence[Model]) -> None:
    """Log a warning for each change that was not looked at before. `state`: the state directory, before anything else
    writes to it; a new one belongs to no earlier release."""
    known = _read(state / FILE)
    if _is_new(state):
        known |= {change.name for change in CHANGES}
    for change in CHANGES:
        if change.name not in known and (notice := change.notice(settings, models)):
            log.warning("changed since the last start: %s (docs/upgrading.md)", notice)
    _write(state / FILE, sorted(known | {change.name for change in CHANGES}))


def _is_new(state: Path) -> bool:
    """Whether no service has run with it."""
    return not (state / "history.sqlite3").exists() and not (state / FILE).exists()


def _read(file: Path) -> set[str]:
    try:
        return set(map(str, json.loads(file.read_text())))
    except (OSError, ValueError, TypeError, RecursionError):
        return set()


def _write(file: Path, names: list[str]) -> None:
    data = json.dumps(names).encode() + b"\n"
    try:
        if not file.exists() or file.read_bytes() != data:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    except OSError as error:
        log.warning("cannot note that changes were announced (%s): %s; they will be again", file, error)
