"""RequestThreads: the threads that answer requests, as many as there were requests at once, and fewer after a while.

Like concurrent.futures.ThreadPoolExecutor, whose threads stay for good: after one burst, hundreds of them kept their
stacks and buffers.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable

log = logging.getLogger(__name__)

IDLE_SECONDS = 30.0  # without a request, until a thread ends
KEPT_THREADS = 4  # that never end: one can be had even when no thread can be started any more

Task = Callable[[], object]


class RequestThreads:
    """Any thread may submit. The lock guards the fields below it."""

    def __init__(self, max_threads: int, idle_seconds: float = IDLE_SECONDS) -> None:
        self._max_threads = max_threads
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()
        self._count = 0
        self._started = 0
        self._idle: list[queue.SimpleQueue[Task]] = []  # their inboxes; the last to become idle is at the end
        self._waiting: deque[Task] = deque()  # tasks for which there is no thread

    def __len__(self) -> int:
        return self._count

    def submit(self, task: Task) -> None:
        """Run the task on the thread that has been idle for the shortest time, else on a new one.

        Raises RuntimeError if no thread can be started: the next that is free runs it.
        """
        with self._lock:
            if self._idle:
                self._idle.pop().put(task)
                return
            if self._count >= self._max_threads:
                self._waiting.append(task)
                return
            self._count += 1
            self._started += 1
        self._start(task)

    def _start(self, task: Task) -> None:
        try:
            threading.Thread(target=self._run, args=(task,), name=f"request_{self._started}", daemon=True).start()
        except RuntimeError:
            with self._lock:
                self._count -= 1
                self._waiting.append(task)
            raise

    def _run(self, task: Task) -> None:
        inbox: queue.SimpleQueue[Task] = queue.SimpleQueue()
        following: Task | None = task
        while following is not None:
            try:
                following()
            except Exception:
                log.exception("a request's thread failed")
            following = self._next_task(inbox)

    def _next_task(self, inbox: queue.SimpleQueue[Task]) -> Task | None:
        """The next task; None if there was none for a while, and the thread should end."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._idle.append(inbox)
        while True:
            try:
                return inbox.get(timeout=self._idle_seconds)
            except queue.Empty:
                if self._ends(inbox):
                    return None

    def _ends(self, inbox: queue.SimpleQueue[Task]) -> bool:
        with self._lock:
            # A thread that is not among the idle ones is about to get a task.
            if inbox not in self._idle or self._count <= KEPT_THREADS:
                return False
            self._idle.remove(inbox)
            self._count -= 1
            return True
