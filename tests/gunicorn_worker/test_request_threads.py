"""The threads that answer requests: as many as there are requests at once, and fewer after a while."""

from __future__ import annotations

import threading
import time

import pytest

from tests.helpers.service import wait_for
from workers.gunicorn_worker.request_threads import KEPT_THREADS, RequestThreads

pytestmark = pytest.mark.gunicorn


def hold(threads: RequestThreads, count: int) -> tuple[threading.Event, list[str]]:
    """Occupy so many threads until the event; their names."""
    event, names = threading.Event(), list[str]()

    def wait() -> None:
        names.append(threading.current_thread().name)
        event.wait(20)

    for _ in range(count):
        threads.submit(wait)
    wait_for(lambda: len(names) == count, 20)
    return event, names


def test_threads_end_some_time_after_a_burst():
    """8,400 streams left early took the pool from 11 threads to 446, which stayed."""
    threads = RequestThreads(50, idle_seconds=0.05)
    event, names = hold(threads, 50)
    assert (len(threads), len(set(names))) == (50, 50)
    event.set()
    wait_for(lambda: len(threads) == KEPT_THREADS, 20)


def test_the_thread_that_was_used_last_is_used_next():
    """In turn, a few requests a second would keep all threads of a burst from ending."""
    threads = RequestThreads(50)
    event, _ = hold(threads, 8)
    event.set()
    wait_for(lambda: len(threads._idle) == 8, 20)
    used = set()
    for _ in range(20):
        event, names = hold(threads, 1)
        used.update(names)
        event.set()
        wait_for(lambda: len(threads._idle) == 8, 20)
    assert len(used) == 1


def test_tasks_beyond_the_threads_wait_for_one():
    threads = RequestThreads(2)
    event, _ = hold(threads, 2)
    done = threading.Event()
    threads.submit(done.set)
    assert not done.wait(0.05)
    event.set()
    assert done.wait(20)


def test_a_task_for_which_no_thread_can_be_started_runs_on_the_next_free_one(monkeypatch):
    threads = RequestThreads(8)
    event, _ = hold(threads, 1)

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    done = threading.Event()
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(threading.Thread, "start", start)
        threads.submit(done.set)
    event.set()
    assert done.wait(20)
    assert len(threads) == 1


def test_no_task_is_lost_while_threads_end():
    """A task may be given to a thread just when it has waited for long enough."""
    threads, count = RequestThreads(20, idle_seconds=0.0005), 0
    lock = threading.Lock()

    def add() -> None:
        nonlocal count
        with lock:
            count += 1

    for number in range(2000):
        threads.submit(add)
        if number % 7 == 0:
            time.sleep(0.0005)
    wait_for(lambda: count == 2000, 20)
