"""The last lines in memory: what is kept, and what a slow reader learns."""

from __future__ import annotations

import logging

import pytest

from app.entities.log_line import SERVICE, LogLine
from workers.logs import history as history_module
from workers.logs.history import ENGINES_BYTES, LINE_OVERHEAD_BYTES, SOURCE_BYTES, LogHistory
from workers.logs.service_log import HistoryHandler
from workers.telemetry.log_format import LOG_FORMAT

LONG = "x" * 1000


def texts(lines: object) -> list[str]:
    return [line.text for line in lines]  # type: ignore[attr-defined]


def test_lines_of_a_source_are_read_page_by_page():
    history = LogHistory()
    history.add("a", "1", ["one", "two"], 5.0)
    page = history.last("a")
    assert page.lines == (LogLine(5.0, "a", "1", "one"), LogLine(5.0, "a", "1", "two"))
    assert history.after("a", page.position).lines == ()
    history.add("a", "2", ["three"], 6.0)
    assert texts(history.after("a", page.position).lines) == ["three"]
    assert texts(history.last("a", 1).lines) == ["three"]
    assert history.last("a", 0).lines == history.last("b").lines == ()


def test_a_slow_reader_is_told_how_many_lines_it_missed():
    history = LogHistory()
    page = history.last("a")
    for number in range(3000):
        history.add("a", "1", [f"{number} {LONG}"], 0.0)
    page = history.after("a", page.position)
    assert page.skipped == 3000 - len(page.lines) > 0
    assert page.lines[-1].text.startswith("2999 ")
    assert history.after("a", page.position).skipped == 0


def test_a_source_and_all_models_together_are_bounded():
    history = LogHistory()
    history.add(SERVICE, "", ["the service's"], 0.0)
    for model in range(40):
        for _ in range(2000):
            history.add(f"model {model}", "1", [LONG], 0.0)
    sizes = {
        f"model {model}": sum(len(line.text) + LINE_OVERHEAD_BYTES for line in history.last(f"model {model}").lines)
        for model in range(40)
    }
    assert max(sizes.values()) <= SOURCE_BYTES and sum(sizes.values()) <= ENGINES_BYTES
    assert sizes["model 39"] > 0.9 * SOURCE_BYTES and not sizes["model 0"], "the longest silent lose theirs first"
    assert texts(history.last(SERVICE).lines) == ["the service's"]


def test_a_reader_of_lines_that_made_room_for_other_models_learns_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(history_module, "ENGINES_BYTES", 3000)
    history = LogHistory()
    page = history.last("a")
    history.add("a", "1", ["one", "two"], 0.0)
    history.add("b", "2", [LONG] * 3, 0.0)
    assert (history.after("a", page.position).lines, history.after("a", page.position).skipped) == ((), 2)
    history.add("a", "1", ["three"], 0.0)
    assert texts(history.after("a", page.position).lines) == ["three"]


def test_all_sources_are_merged_by_time():
    history = LogHistory()
    history.add("a", "1", ["first"], 1.0)
    history.add(SERVICE, "", ["second"], 2.0)
    history.add("a", "1", ["third"], 3.0)
    assert texts(history.merged()) == ["first", "second", "third"]
    assert texts(history.merged(2)) == ["second", "third"]
    assert history.merged(0) == []


def test_the_services_lines_are_kept_without_their_time_and_line_by_line():
    history = LogHistory()
    handler = HistoryHandler(history, LOG_FORMAT)
    logger = logging.getLogger("tests.logs")
    handler.start()
    try:
        logger.warning("two\nlines %d", 2)
    finally:
        handler.stop()
    logger.warning("afterwards")
    lines = history.last(SERVICE).lines
    assert texts(lines) == ["WARNING [MainThread] tests.logs: two", "lines 2"]
    assert {line.source for line in lines} == {SERVICE} and lines[0].at > 1_700_000_000
