"""Asks for /health ten times a second, in a process of its own: python -m bench.soak.probe PORT

A probe has a connection of its own, and fails if 200 and the whole body have not arrived within a second. One is sent
every 100 ms whether or not the others were answered. Each second a line of JSON goes to stdout, until stdin ends.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from dataclasses import dataclass, field

PERIOD_SECONDS, LIMIT_SECONDS = 0.1, 1.0
REQUEST = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@dataclass(slots=True)
class Second:
    """The probes that ended within one second. `late_ms`: how late this process was woken at worst; where that is much,
    the machine was too busy to tell."""

    probes: int = 0
    failed: int = 0
    slowest_ms: float = 0.0
    late_ms: float = 0.0
    why: list[str] = field(default_factory=list)

    def line(self, at: float) -> str:
        figures = {"at": at, "probes": self.probes, "failed": self.failed, "why": self.why}
        return json.dumps({**figures, "slowest_ms": round(self.slowest_ms, 1), "late_ms": round(self.late_ms, 1)})


@dataclass(slots=True)
class Probe:
    connection: socket.socket
    began: float
    answer: bytes = b""
    is_sent: bool = False

    def advance(self) -> bool:
        """Send or receive; True at the end of the answer. Raises OSError."""
        if not self.is_sent:
            self.connection.send(REQUEST)
            self.is_sent = True
            return False
        piece = self.connection.recv(1 << 20)
        self.answer += piece
        return not piece

    @property
    def problem(self) -> str:
        head, _, body = self.answer.partition(b"\r\n\r\n")
        is_whole = b"\r\nContent-Length: %d" % len(body) in head
        return "" if head.startswith(b"HTTP/1.1 200 ") and is_whole else f"answered {self.answer[:200]!r}"


class Prober:
    def __init__(self, port: int) -> None:
        self._port = port
        self._selector = selectors.DefaultSelector()
        self._selector.register(sys.stdin, selectors.EVENT_READ, None)
        self._second = Second()

    def run(self) -> None:
        """Until stdin ends."""
        began = due = time.monotonic()
        written = 0
        while True:
            now = time.monotonic()
            if now >= due:
                self._second.late_ms = max(self._second.late_ms, 1000 * (now - due))
                due += PERIOD_SECONDS
                self._start(now)
            if int(now - began) > written:
                written = int(now - began)
                print(self._second.line(time.monotonic()), flush=True)
                self._second = Second()
            for key, _ in self._selector.select(max(0.0, due - time.monotonic())):
                if key.data is None:
                    return
                self._advance(key.data)
            self._expire()

    def _start(self, now: float) -> None:
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex(("127.0.0.1", self._port))
        self._selector.register(connection, selectors.EVENT_WRITE, Probe(connection, now))

    def _advance(self, probe: Probe) -> None:
        try:
            if probe.advance():
                self._end(probe, probe.problem)
            else:
                self._selector.modify(probe.connection, selectors.EVENT_READ, probe)
        except BlockingIOError:
            pass
        except OSError as error:
            self._end(probe, repr(error))

    def _expire(self) -> None:
        now = time.monotonic()
        for key in list(self._selector.get_map().values()):
            if key.data is not None and now - key.data.began > LIMIT_SECONDS:
                self._end(key.data, f"no answer within {LIMIT_SECONDS:g} s; sent: {key.data.is_sent}")

    def _end(self, probe: Probe, problem: str) -> None:
        self._selector.unregister(probe.connection)
        probe.connection.close()
        self._second.probes += 1
        self._second.slowest_ms = max(self._second.slowest_ms, 1000 * (time.monotonic() - probe.began))
        if problem:
            self._second.failed += 1
            self._second.why.append(problem)


if __name__ == "__main__":
    Prober(int(sys.argv[1])).run()
