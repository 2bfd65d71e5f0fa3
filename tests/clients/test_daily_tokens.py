"""Tokens per key and day: counted, kept across restarts, and never in the way."""

from __future__ import annotations

import json
import stat
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from workers.clients.daily_tokens import DailyTokens

NOON = datetime(2026, 12, 2, 12, tzinfo=UTC).timestamp()
DAY = 86400.0


class Clock:
    def __init__(self, at: float = NOON) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


def test_tokens_are_counted_for_each_key_until_midnight_utc(tmp_path: Path):
    clock = Clock()
    tokens = DailyTokens(tmp_path / "tokens.json", clock)
    tokens.count("a", 5)
    tokens.count("a", 7)
    tokens.count("b", 1)
    assert tokens.used("a") == (12, date(2026, 12, 2))
    assert tokens.all() == {"a": 12, "b": 1}
    clock.at += DAY / 2 - 1
    assert tokens.used("a") == (12, date(2026, 12, 2)), "one second before midnight"
    clock.at += 1
    assert tokens.used("a") == (0, date(2026, 12, 3))
    tokens.count("a", 3)
    assert tokens.all() == {"a": 3}


def test_the_day_does_not_go_back_with_the_clock(tmp_path: Path):
    """A clock that was set back over midnight gave each key the tokens of the new day twice."""
    clock = Clock(NOON + DAY / 2 + 60)
    tokens = DailyTokens(tmp_path / "tokens.json", clock)
    tokens.count("a", 12)
    clock.at -= 120
    tokens.count("a", 1)
    assert tokens.used("a") == (13, date(2026, 12, 3)), "one minute before midnight, again"
    clock.at += 120
    assert tokens.used("a") == (13, date(2026, 12, 3))


def test_a_clock_that_was_far_ahead_does_not_keep_a_quota_used_up_for_years(tmp_path: Path):
    clock = Clock(NOON + 400 * DAY)
    tokens = DailyTokens(tmp_path / "tokens.json", clock)
    tokens.count("a", 12)
    clock.at = NOON
    assert tokens.used("a") == (12, date(2026, 12, 2)), "set right, the counts go on"
    clock.at += DAY
    assert tokens.used("a") == (0, date(2026, 12, 3))


def test_counts_survive_a_restart_on_the_same_day(tmp_path: Path):
    file = tmp_path / "state" / "tokens.json"
    before = DailyTokens(file, Clock())
    before.start()
    before.count("a", 12)
    before.close()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text()) == {"day": "2026-12-02", "tokens": {"a": 12}}
    assert DailyTokens(file, Clock()).used("a")[0] == 12
    assert DailyTokens(file, Clock(NOON + DAY)).used("a")[0] == 0


def test_a_full_disk_costs_one_warning_and_no_count(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    file = tmp_path / "state" / "tokens.json"
    file.parent.symlink_to("/dev/full/nowhere")
    tokens = DailyTokens(file, Clock())
    for _ in range(3):
        tokens.count("a", 1)
        tokens.write()
    assert tokens.used("a")[0] == 3
    assert [record.message for record in caplog.records if "cannot save" in record.message] == [caplog.messages[-1]]
    file.parent.unlink()
    tokens.write()
    assert DailyTokens(file, Clock()).used("a")[0] == 3, "written once the disk has room again"
    assert not file.with_suffix(".new").exists()


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", "[]", "null", '{"day": "2026-12-02"}', '{"day": 3, "tokens": {}}', "\x00" * 100),
        '{"day": "2026-12-02", "tokens": {"a": 1e999}}',
        *('{"day": "2026-12-02", "tokens": {"a": "x"}}', '{"day": "2026-12-02", "tokens": [1]}', "[" * 100_000),
    ],
)
def test_a_damaged_file_is_counted_from_zero(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture):
    file = tmp_path / "tokens.json"
    file.write_text(text)
    tokens = DailyTokens(file, Clock())
    assert "counting from zero" in caplog.text
    tokens.count("a", 2)
    tokens.write()
    assert DailyTokens(file, Clock()).used("a")[0] == 2
