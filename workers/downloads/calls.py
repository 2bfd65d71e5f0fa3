"""Calls that wait for a server, a few at a time, in threads that no process waits for at its end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TypeVar

from app.errors import Overloaded

Result = TypeVar("Result")

MAX_THREADS = 32  # of all calls. Nobody waits any longer for one whose server sends byte by byte, but it goes on
_threads = threading.BoundedSemaphore(MAX_THREADS)


def begin_calls(calls: Sequence[Callable[[], Result]], at_once: int) -> list[Future[Result]]:
    """Their results, in the order of the calls. One that has not begun can be canceled. Raises Overloaded if earlier
    calls have all threads."""
    futures: list[Future[Result]] = [Future() for _ in calls]
    waiting: SimpleQueue[tuple[Callable[[], Result], Future[Result]]] = SimpleQueue()
    for each in zip(calls, futures, strict=True):
        waiting.put(each)
    threads = sum(_begin_thread(waiting) for _ in range(min(at_once, len(calls))))
    if calls and not threads:
        raise Overloaded(f"{MAX_THREADS} requests to the server of the models are not answered; try again later")
    return futures


def _begin_thread(waiting: SimpleQueue[tuple[Callable[[], Result], Future[Result]]]) -> bool:
    """Whether there was one left."""
    if not _threads.acquire(blocking=False):
        return False
    try:
        threading.Thread(target=_work, args=(waiting,), name="remote-headers", daemon=True).start()
    except RuntimeError:
        _threads.release()
        return False
    return True


def _work(waiting: SimpleQueue[tuple[Callable[[], Result], Future[Result]]]) -> None:
    try:
        while True:
            call, future = waiting.get_nowait()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except Exception as error:  # of any kind: who waits for the result gets it
                    future.set_exception(error)
    except Empty:
        pass
    finally:
        _threads.release()
