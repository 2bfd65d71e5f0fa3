"""The progress of a build in a terminal."""

from __future__ import annotations

import pytest

from app.terminal.builds import build_progress_facts, build_progress_line


def test_a_build_shows_its_share_its_steps_and_the_time_left():
    line = build_progress_line("compiling", 112, 224, 0.5)
    assert line == f"compiling  {'#' * 14}{'.' * 14}  50 %  112 of 224  4 min left"


@pytest.mark.parametrize(
    ("what", "done", "total", "per_second", "facts"),
    [
        ("compiling", 1, 224, 0.0, ["0 %", "1 of 224"]),
        ("compiling", 224, 224, 2.0, ["100 %", "224 of 224"]),
        ("source package", 1 << 29, 1 << 30, float(1 << 24), ["50 %", "0.5 of 1.0 GiB", "32 s left"]),
        ("source package", 5, 0, 0.0, []),
    ],
)
def test_the_time_left_is_said_once_there_is_a_rate_and_something_is_left(what, done, total, per_second, facts):
    assert build_progress_facts(what, done, total, per_second) == facts
