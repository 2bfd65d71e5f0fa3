"""Request threads: as many as there is work, at most, and one after a while without."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tests.helpers.service import wait_for
from workers.gunicorn_worker import request_threads
from workers.gunicorn_worker.request_threads import RequestThreads


class Calls:
    """Calls that last until `over` is set."""

    def __init__(self, threads: RequestThreads) -> None:
        self.threads, self.over = threads, threading.Event()
        self.began, self.done = [], []

    def submit(self, count: int) -> None:
        for number in range(count):
            self.threads.submit(self._call(number))

    def _call(self, number: int) -> Callable[[], object]:
        def call() -> None:
            self.began.append(threading.get_ident())
            self.over.wait(60)
            self.done.append(number)

        return call


def test_no_more_calls_run_at_once_than_the_limit():
    calls = Calls(RequestThreads(3, idle_seconds=60))
    calls.submit(6)
    wait_for(lambda: len(calls.began) == 3, 10)
    assert calls.threads._count == 3
    calls.over.set()
    wait_for(lambda: len(calls.done) == 6, 10)
    assert len(set(calls.began)) == 3


def test_calls_that_wait_for_a_thread_run_in_order():
    calls = Calls(RequestThreads(1, idle_seconds=60))
    calls.submit(6)
    calls.over.set()
    wait_for(lambda: len(calls.done) == 6, 10)
    assert calls.done == list(range(6))


def test_threads_without_work_end_except_the_last():
    calls = Calls(RequestThreads(20, idle_seconds=0.2))
    calls.submit(20)
    wait_for(lambda: len(calls.began) == 20, 10)
    calls.over.set()
    wait_for(lambda: calls.threads._count == 1, 10)
    wait_for(lambda: len({thread.ident for thread in threading.enumerate()} & set(calls.began)) == 1, 10)
    calls.submit(1)
    wait_for(lambda: len(calls.done) == 21, 10)
    assert calls.began[-1] in calls.began[:20], "the last one stayed"


def test_the_thread_that_became_idle_last_gets_the_next_call():
    """With the longest idle one, a call now and then would keep all of them."""
    calls = Calls(RequestThreads(10, idle_seconds=60))
    calls.submit(10)
    wait_for(lambda: len(calls.began) == 10, 10)
    calls.over.set()
    wait_for(lambda: len(calls.threads._idle) == 10, 10)
    for number in range(5):
        calls.submit(1)
        wait_for(lambda number=number: len(calls.done) == 11 + number and len(calls.threads._idle) == 10, 10)
    assert len(set(calls.began[10:])) == 1


def test_a_call_for_which_no_thread_can_be_started_is_run_by_the_next_free_one(monkeypatch: pytest.MonkeyPatch):
    calls = Calls(RequestThreads(5, idle_seconds=60))
    calls.submit(1)
    wait_for(lambda: calls.began, 10)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(request_threads.threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            calls.submit(1)
    calls.over.set()
    wait_for(lambda: len(calls.done) == 2, 10)
    calls.over.clear()
    calls.submit(5)
    wait_for(lambda: len(calls.began) == 7, 10)
    calls.over.set()


def test_no_call_is_lost_while_threads_end():
    """A call may be handed to a thread in the moment in which it gives up waiting."""
    threads, done, over = RequestThreads(8, idle_seconds=0.001), [], threading.Event()
    for number in range(3000):
        threads.submit(lambda number=number: done.append(number))
        if number % 7 == 0:
            over.wait(0.001)
    wait_for(lambda: len(done) == 3000, 20)
    assert sorted(done) == list(range(3000))
