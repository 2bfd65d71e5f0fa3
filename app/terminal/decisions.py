"""Placement decisions as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from app.terminal.table import Table, TableRow, table
from app.terminal.text import printable

STYLES = {"place": "green", "evict": "yellow", "wait": "yellow", "refuse": "red", "stop": "red"}


def decision_table(newest_first: Iterable[Mapping[str, Any]], now: datetime) -> Table:
    """The newest last, as in a log. `now`: local time, in which the others are shown."""
    rows = [_row(decision, now) for decision in newest_first]
    return table("AT OUTCOME DECISION", reversed(rows), styled="OUTCOME")


def _row(decision: Mapping[str, Any], now: datetime) -> TableRow:
    outcome = decision["outcome"]
    return TableRow(
        (time_text(decision["at"], now), printable(outcome), printable(decision["text"])), STYLES.get(outcome, "")
    )


def time_text(at: float, now: datetime) -> str:
    """`14:03:09`, with the date where it is another day."""
    local = datetime.fromtimestamp(at, now.tzinfo)
    return f"{local:%H:%M:%S}" if local.date() == now.date() else f"{local:%Y-%m-%d %H:%M:%S}"
