"""Calls that wait for a server, a few at a time, in threads that no process waits for at its end."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TypeVar

Result = TypeVar("Result")


def begin_calls(calls: Sequence[Callable[[], Result]], at_once: int) -> list[Future[Result]]:
    """Their results, in the order of the calls. One that has not begun can be canceled."""
    futures: list[Future[Result]] = [Future() for _ in calls]
    waiting: SimpleQueue[tuple[Callable[[], Result], Future[Result]]] = SimpleQueue()
    for each in zip(calls, futures, strict=True):
        waiting.put(each)
    for _ in range(min(at_once, len(calls))):
        threading.Thread(target=_work, args=(waiting,), name="remote-headers", daemon=True).start()
    return futures


def _work(waiting: SimpleQueue[tuple[Callable[[], Result], Future[Result]]]) -> None:
    with contextlib.suppress(Empty):
        while True:
            call, future = waiting.get_nowait()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except Exception as error:  # of any kind: who waits for the result gets it
                    future.set_exception(error)
