"""What is newer upstream of the models in the Hugging Face cache, as a table."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from app.terminal.table import Table, TableRow, table
from app.terminal.text import printable, size_cell

EXPENDABLE = ("DOWNLOAD",)
_TEXTS = {"current": "current", "outdated": "newer", "removed": "no longer in its repository"}
_STYLES = {"outdated": "yellow", "removed": "red", "unknown": "red"}


def update_table(updates: Sequence[Mapping[str, Any]]) -> Table:
    """`updates`: of `models --updates --json`."""
    return table("MODEL DOWNLOAD UPSTREAM", map(_row, updates), numbers="DOWNLOAD", styled="UPSTREAM")


def _row(update: Mapping[str, Any]) -> TableRow:
    size_bytes, freshness = update["download_bytes"], update["freshness"]
    text = _TEXTS.get(freshness) or f"unknown: {printable(update['problem'])}"
    cells = printable(update["model"]), size_cell(size_bytes) if size_bytes else "", text
    return TableRow(cells, _STYLES.get(freshness, "green"))


def could_check(updates: Sequence[Mapping[str, Any]]) -> bool:
    """Whether there is one of which it is known what is upstream."""
    return any(update["freshness"] != "unknown" for update in updates)


def _nothing_newer(updates: Sequence[Mapping[str, Any]]) -> str:
    unknown = [update for update in updates if update["freshness"] == "unknown"]
    if not could_check(updates):
        return f"Nothing could be checked: {printable(unknown[0]['problem'])}"
    of_them = f" {len(unknown)} of {len(updates)} models could not be checked." if unknown else ""
    return f"Nothing newer was found.{of_them}"


def update_command(updates: Sequence[Mapping[str, Any]]) -> str:
    """The command to type after the table."""
    newer = [update["model"] for update in updates if update["freshness"] == "outdated"]
    if not newer:
        return _nothing_newer(updates)
    return f"update it:  llama-smart-proxy pull {shlex.quote(printable(newer[0]))}"
