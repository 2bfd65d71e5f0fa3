"""Streams through the whole service: in its two ways, to clients that disconnect, and to those that read slowly."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from app.errors import EngineGone, UpstreamTimeout
from app.routes.exchange import Exchange
from app.use_cases.scheduling.events import Ending
from tests.helpers.service import Service, wait_for
from tests.service.test_faults import faulty
from workers.relay.body import Chunked

pytestmark = pytest.mark.integration

TOKENS = {"FAKE_STREAM_TOKENS": 40, "FAKE_TOKEN_DELAY_SECONDS": 0.01}
BODY = b'{"model": "m", "stream": true, "messages": []}'


def ask(service: Service, version: str = "1.1", close: bool = True) -> socket.socket:
    connection = service.connect()
    head = f"POST /v1/chat/completions HTTP/{version}\r\nHost: localhost\r\nContent-Length: {len(BODY)}\r\n"
    connection.sendall((head + ("Connection: close\r\n" if close else "") + "\r\n").encode() + BODY)
    return connection


def answer(connection: socket.socket, size: int = 65536, pause: float = 0.0) -> tuple[bytes, bytes]:
    data = b""
    with connection:
        while piece := connection.recv(size):
            data += piece
            time.sleep(pause)
    head, _, body = data.partition(b"\r\n\r\n")
    return head.lower(), body


def test_a_client_that_knows_no_chunks_gets_the_same_events(tmp_path: Path):
    with faulty(tmp_path, **TOKENS) as service:
        answer(ask(service))  # a load that takes long adds comments
        head, chunked = answer(ask(service))
        assert b"transfer-encoding: chunked" in head and b"x-accel-buffering: no" in head
        events = Chunked().payload(chunked)
        head, plain = answer(ask(service, "1.0"))
        assert b"transfer-encoding" not in head
        # Ids and times differ.
        assert [event[:12] for event in plain.split(b"\n\n")] == [event[:12] for event in events.split(b"\n\n")]
        assert events.count(b"data: ") > 40 and plain.endswith(b"data: [DONE]\n\n")


def test_streams_follow_each_other_on_kept_connections(tmp_path: Path):
    """The engine closes its side after each, up to 5 ms late, although it has announced keep-alive: a request that was
    sent on such a connection was answered 502 `upstream_crashed`."""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(BODY)}\r\n\r\n"
    again = head.encode() + BODY

    def ask_repeatedly(_: int) -> set[bytes]:
        heads = set()
        with ask(service, close=False) as connection:
            for _ in range(20):
                body, data = Chunked(), b""
                while b"\r\n\r\n" not in data:
                    data += connection.recv(65536)
                heads.add(data.partition(b"\r\n")[0])
                body.payload(data.partition(b"\r\n\r\n")[2])
                while not body.is_over:
                    body.payload(connection.recv(65536))
                connection.sendall(again)
        return heads

    with faulty(tmp_path, FAKE_STREAM_TOKENS=1, FAKE_TOKEN_DELAY_SECONDS=0) as service, ThreadPoolExecutor(6) as pool:
        assert set.union(*pool.map(ask_repeatedly, range(6))) == {b"HTTP/1.1 200 OK"}


def without_times(body: bytes) -> bytes:
    return re.sub(rb'"created": *[0-9]+', b"", body)


def test_a_slow_reader_gets_all_of_it(tmp_path: Path):
    with faulty(tmp_path, FAKE_STREAM_TOKENS=3000, FAKE_TOKEN_DELAY_SECONDS=0) as service:
        _, quick = answer(ask(service))
        _, slow = answer(ask(service), size=700, pause=0.0005)
        assert without_times(Chunked().payload(slow)) == without_times(Chunked().payload(quick))


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_clients_that_disconnect_at_any_moment_leave_nothing_behind(tmp_path: Path, version: str, seed: int):
    """No descriptor, no slot, no lease, no place; whether bytes go to their sockets or as pieces."""
    with faulty(tmp_path, {"DEFAULTS__PARALLEL": "64"}, **TOKENS) as service:
        answer(ask(service))
        worker = psutil.Process(service.worker.pid)
        wait_for(lambda: service.servers()[0]["requests"] == 0, 5)
        before = worker.num_fds()

        chance = random.Random(seed)

        def disconnect_after(seconds: float) -> None:
            connection = ask(service, version)
            connection.settimeout(20)
            until = time.monotonic() + seconds
            with connection, contextlib.suppress(TimeoutError):
                while (remaining := until - time.monotonic()) > 0:
                    connection.settimeout(remaining)
                    if not connection.recv(4096):
                        return

        threads = [threading.Thread(target=disconnect_after, args=(chance.uniform(0, 0.3),)) for _ in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        wait_for(lambda: service.servers()[0]["requests"] == 0 and service.get("/health").json()["waiting"] == 0, 30)
        # A few kept connections to the server, and idle ones of clients, come and go.
        wait_for(lambda: worker.num_fds() <= before + 4, 20, worker.num_fds)
        assert answer(ask(service))[0].startswith(b"http/1.1 200")


def test_a_request_that_a_killed_server_had_not_read_is_answered_by_the_next():
    """Each request in the milliseconds before the pool saw the end of an idle server was 502 `upstream_crashed`."""
    calls: list[object] = []

    def slot_of(server: int) -> object:
        lease = SimpleNamespace(
            address=SimpleNamespace(server=server, device="cpu", context_tokens=0), waited_seconds=1
        )
        return SimpleNamespace(wait=lambda: lease, end=lambda ending, seconds: calls.append((server, ending)))

    def send(address: SimpleNamespace, request: object, client: object) -> object:
        calls.append(address.server)
        if address.server == 1:
            raise EngineGone("killed")
        return SimpleNamespace(close=lambda: None)

    services = SimpleNamespace(
        relay=SimpleNamespace(send=send),
        pool=SimpleNamespace(acquire=lambda *arguments: slot_of(2)),
        gauges=SimpleNamespace(first_byte=lambda *arguments: None),
    )
    request = SimpleNamespace(
        services=services,
        key=None,
        settings=SimpleNamespace(max_wait_seconds=9),
        arguments=lambda name: [],
        method="POST",
        path="/v1/chat/completions",
        environ={},
        for_engine=lambda body: body,
    )
    exchange = Exchange(request, "/v1/chat/completions")
    exchange.client, exchange.model, exchange.slot = SimpleNamespace(), SimpleNamespace(name="m"), slot_of(1)
    exchange._send_on(exchange.slot.wait())
    assert calls == [1, (1, Ending.NOT_SENT), 2]
    assert exchange.waited_seconds == 2


def test_an_answer_that_was_cut_is_logged_with_the_status_of_what_cut_it():
    """Whatever it was, it was logged as 502. A client that disconnects once it was told was not the first."""

    def copy_body(write: object, client_socket: object) -> bool:
        client.is_disconnected = True
        return False  # the client was told

    request = SimpleNamespace(services=None, environ={}, request_id="r", method="POST", arguments=lambda name: [])
    exchange = Exchange(request, "/v1/chat/completions")
    exchange.client = client = SimpleNamespace(is_disconnected=False)
    exchange.model = SimpleNamespace(name="m")
    exchange.answer = SimpleNamespace(status=200, headers=[], is_stream=True, copy_body=copy_body)
    exchange.answer.failure = UpstreamTimeout("it has not responded for 30 s")
    exchange.send_answer(lambda status, headers: None)
    assert exchange.final_status == 504
