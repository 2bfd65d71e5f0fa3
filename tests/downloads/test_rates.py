"""Rate, retries and room of a download."""

from __future__ import annotations

import pytest

from app.use_cases.downloads.disk import disk_problem
from app.use_cases.downloads.rates import RateWindow
from app.use_cases.downloads.retries import MAX_TRIES, pause_seconds

GIB = 1024**3


def readings(*values: tuple[float, int]) -> RateWindow:
    window = RateWindow()
    for at, done in values:
        window = window.after(at, done)
    return window


def test_the_rate_is_that_of_the_last_seconds():
    assert readings((0, 0), (1, 100)).bytes_per_second == 100
    # The first 10 s at 100 a second are over: only the last 5 s count.
    assert readings(*((at, 100 * at) for at in range(11)), (12, 1000), (14, 1000), (16, 1000)).bytes_per_second == 0


def test_one_reading_says_nothing():
    assert readings().bytes_per_second is None and readings((0, 5), (0.5, 9)).bytes_per_second is None


def test_bytes_that_are_discarded_are_no_negative_rate():
    assert readings((0, 0), (1, 100), (2, 0), (3, 50)).bytes_per_second == 50


def test_a_server_says_how_long_to_wait_within_limits():
    assert pause_seconds(1, 7, random=0.5) == 7 and pause_seconds(1, 99999, random=0.5) == 300


def test_pauses_grow_to_half_a_minute_in_all():
    assert 20 < sum(pause_seconds(tries, None, random=0) for tries in range(1, MAX_TRIES)) < 40
    assert pause_seconds(0, None, random=1) == 0.5


@pytest.mark.parametrize(("free", "fits"), [(12 * GIB, True), (12 * GIB - 1, False)])
def test_the_reserve_of_the_disk_is_kept(free: int, fits: bool):
    assert (disk_problem(10 * GIB, free, 2 * GIB, "/cache") == "") is fits


def test_no_room_is_said_with_the_numbers():
    assert disk_problem(10 * GIB, 5 * GIB, 2 * GIB, "/cache") == (
        "no room on the disk of /cache: 10.0 GiB still to download, 5.0 GiB free, 2.0 GiB of which are reserved. Free "
        "7.0 GiB more (`llama-smart-proxy rm NAME` deletes a model), or set HF_HOME to a folder on another disk"
    )
