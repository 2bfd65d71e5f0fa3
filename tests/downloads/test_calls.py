"""Calls to the server, in threads that are bounded."""

from __future__ import annotations

import threading

import pytest

from app.errors import Overloaded
from tests.downloads.pulls import SECONDS, until
from workers.downloads.calls import MAX_THREADS, begin_calls


def running() -> int:
    return sum(thread.name == "remote-headers" for thread in threading.enumerate())


def test_calls_that_no_server_answers_keep_a_bounded_number_of_threads() -> None:
    """Each plan of a repository of a server that sends byte by byte left its threads behind."""
    answers = threading.Event()
    before = running()
    waiting = [begin_calls([lambda: answers.wait(SECONDS)] * 4, 4) for _ in range(MAX_THREADS // 4 - 1)]
    last = begin_calls([lambda: answers.wait(SECONDS)] * 9, 9)  # gets the four threads that are left
    assert running() == MAX_THREADS
    with pytest.raises(Overloaded, match="are not answered"):
        begin_calls([lambda: answers.wait(SECONDS)], 1)
    answers.set()
    assert all(each.result(SECONDS) for calls in [*waiting, last] for each in calls)
    until(lambda: running() == before)
    assert begin_calls([], 4) == [] and begin_calls([lambda: True], 1)[0].result(SECONDS)
