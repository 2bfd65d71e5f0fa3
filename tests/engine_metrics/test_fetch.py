"""Several engines are asked at once, over real sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from app.ports import Address
from tests.helpers.service import wait_for
from workers.engine_metrics import reader as reader_module
from workers.engine_metrics.fetch import MAX_ANSWER_BYTES, fetch
from workers.engine_metrics.reader import Answers, EngineReader, Subject

pytestmark = pytest.mark.integration

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage"


class Engine:
    """Answers each connection with the same bytes, and notes the requests. Without bytes it hangs."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.requests: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.run, daemon=True).start()

    def run(self) -> None:
        hung = []
        with contextlib.suppress(OSError):
            while True:
                connection = self.listener.accept()[0]
                self.requests.append(connection.recv(65536))
                if not self.answer:
                    hung.append(connection)
                    continue
                with contextlib.suppress(OSError):
                    connection.sendall(self.answer)
                connection.close()

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])


@contextlib.contextmanager
def engines(*answers: bytes) -> Iterator[tuple[list[Engine], list[Address]]]:
    found = [Engine(answer) for answer in answers]
    try:
        yield found, [Address(n, f"m{n}", engine.port, f"key-{n}") for n, engine in enumerate(found)]
    finally:
        for engine in found:
            engine.listener.close()


def test_an_engine_that_hangs_delays_no_other():
    with engines(GOOD, b"", GOOD) as (_, addresses):
        began = time.monotonic()
        answers = fetch(addresses, "/metrics", seconds=0.5)
        assert [(address.server, body) for address, body in answers] == [(0, b"page"), (2, b"page")]
        assert time.monotonic() - began < 10


def test_a_request_carries_the_key_of_its_engine():
    with engines(GOOD, GOOD) as (found, addresses):
        fetch(addresses, "/slots")
        for n, engine in enumerate(found):
            head, *lines = engine.requests[0].decode().split("\r\n")
            assert head == "GET /slots HTTP/1.1" and f"Authorization: Bearer key-{n}" in lines


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 501 Not Implemented\r\nContent-Length: 2\r\n\r\nno",
        b"garbage",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\ncut",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MAX_ANSWER_BYTES + 1),
    ],
)
def test_an_answer_that_is_none_is_left_out(answer: bytes):
    with engines(answer) as (_, addresses):
        assert fetch(addresses, "/metrics", seconds=20) == []


def test_a_port_that_nobody_listens_on_is_left_out():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert fetch([Address(1, "m", bound.getsockname()[1], "key")], "/metrics", seconds=20) == []


def test_a_subject_is_read_at_once_then_after_its_interval_and_only_while_wanted():
    seen: dict[str, list[Answers]] = {"/metrics": [], "/slots": []}
    wanted = threading.Event()
    with engines(GOOD) as (_, addresses):
        reader = EngineReader(
            lambda: addresses,
            Subject("/metrics", 3600, seen["/metrics"].append),
            Subject("/slots", 0.01, seen["/slots"].append, wanted.is_set),
        )
        reader.start()
        wait_for(lambda: seen["/metrics"], 20)
        assert not seen["/slots"]
        wanted.set()
        reader.wake()
        wait_for(lambda: len(seen["/slots"]) > 3, 20)
        assert len(seen["/metrics"]) == 1
        reader.close()
        assert seen["/slots"][0] == [(addresses[0], b"page")]


def test_a_reading_that_fails_does_not_end_the_thread(caplog: pytest.LogCaptureFixture):
    seen: list[Answers] = []

    def publish(answers: Answers) -> None:
        seen.append(answers)
        raise RuntimeError("a bug")

    reader = EngineReader(list, Subject("/metrics", 0.01, publish))
    reader.start()
    wait_for(lambda: len(seen) > 1, 20)
    reader.close()
    assert "reading /metrics of the engines failed" in caplog.text


def test_an_engine_that_does_not_answer_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch):
    """A request that it has not read may keep one of its HTTP threads."""
    seen: list[Answers] = []
    monkeypatch.setattr(reader_module, "fetch", lambda addresses, path: fetch(addresses, path, seconds=0.05))
    with engines(b"", GOOD) as ((hung, good), addresses):
        reader = EngineReader(lambda: addresses, Subject("/slots", 0.01, seen.append))
        reader.start()
        wait_for(lambda: len(good.requests) > 3, 20)
        reader.close()
    assert len(hung.requests) == 1


def test_only_selected_engines_are_read():
    seen: list[Answers] = []
    with engines(GOOD, GOOD) as ((one, other), addresses):
        reader = EngineReader(lambda: addresses, Subject("/slots", 0.01, seen.append, selects=addresses[1].__eq__))
        reader.start()
        wait_for(lambda: len(other.requests) > 1, 20)
        reader.close()
    assert one.requests == []
