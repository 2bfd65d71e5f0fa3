"""Orders: what other threads want of a running server, and the file descriptor that wakes its thread."""

from __future__ import annotations

import os
import threading


class Orders:
    """Any thread gives orders; the server's thread waits for `fd` in a selector, then reads them."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.is_stop_wanted = False
        self.is_save_wanted = False  # before the stop
        self.is_check_wanted = False  # whether it responds; this and the next are reset by the server's thread
        self.is_count_wanted = False  # of busy slots, at the check
        self._lock = threading.Lock()  # after close() the number may belong to another file
        self._is_closed = False

    def stop(self, saves: bool) -> None:
        self.is_save_wanted = saves
        self.is_stop_wanted = True
        self.wake()

    def check(self, counts_slots: bool) -> None:
        self.is_count_wanted |= counts_slots
        self.is_check_wanted = True
        self.wake()

    def wake(self) -> None:
        with self._lock:
            if not self._is_closed:
                os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        """Call when `fd` is readable, before reading the orders."""
        os.eventfd_read(self.fd)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            os.close(self.fd)
