"""`decisions`."""

from __future__ import annotations

from datetime import UTC, datetime

from app.terminal.decisions import decision_table

NOON = datetime(2026, 12, 2, 12, 0, tzinfo=UTC)


def test_the_newest_decision_is_last_and_another_day_has_its_date():
    newest = {"at": NOON.timestamp() - 60, "outcome": "evict", "text": "a on GPU 1: evicted b"}
    older = {"at": NOON.timestamp() - 86_400, "outcome": "place", "text": "b on GPU 1\x1b"}
    assert [row.cells for row in decision_table([newest, older], NOON).rows] == [
        ("2026-12-01 12:00:00", "place", r"b on GPU 1\x1b"),
        ("11:59:00", "evict", "a on GPU 1: evicted b"),
    ]
