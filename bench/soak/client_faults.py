"""Faults of clients: they leave, are slow, send too much, or send nonsense."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from collections.abc import Sequence

from bench.soak.client import CHAT, read, request_bytes
from bench.soak.faults import LONG, Together, fault, pause
from bench.soak.target import MIB, REAL, STEADY, Target
from tests.service.test_bad_requests import CASES

MESSAGES = [{"role": "user", "content": "Hello!"}]
ALL_MODELS = (*REAL, STEADY)
TLS_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(190)
STRANGE = (TLS_HELLO, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x05\x01\x00", b"GET / HTTP/9.9\r\n\r\n", b"\0" * 70_000)


def leave(target: Target, model: str, count: int, after: Sequence[float], **fields: object) -> None:
    """Send requests and disconnect from each after so many seconds."""
    body = {"model": model, "messages": MESSAGES, **fields}
    connections = []
    for _ in range(count):
        with contextlib.suppress(OSError):
            connections.append(target.client.begin(body))
            target.account.add_left(model)
    for seconds, connection in zip(after, connections, strict=False):
        pause(seconds)
        connection.close()
    for connection in connections:
        connection.close()


@fault
def client_leaves_while_loading(target: Target, chance: random.Random) -> None:
    model = chance.choice(REAL)
    target.unload(model)
    leave(target, model, 5, [chance.uniform(0, 0.2) for _ in range(5)], stream=chance.random() < 0.5)
    target.ask(model)


@fault
def client_leaves_the_queue(target: Target, chance: random.Random) -> None:
    """Streams fill the slots; those who wait behind them leave."""
    model = chance.choice(REAL)
    with Together(target) as asked:
        for _ in range(4):
            asked.chat(model, **LONG)
        pause(0.5)
        leave(target, model, 10, [chance.uniform(0, 0.05) for _ in range(10)])
    target.ask(model)


@fault
def client_leaves_a_stream(target: Target, chance: random.Random) -> None:
    model = chance.choice(ALL_MODELS)
    leave(target, model, 6, [chance.uniform(0, 0.3) for _ in range(6)], **{**LONG, "stream": chance.random() < 0.7})
    target.ask(model)


@fault
def client_reads_slowly(target: Target, chance: random.Random) -> None:
    body = {"model": chance.choice(ALL_MODELS), "messages": MESSAGES, **LONG}
    began = time.monotonic()
    with contextlib.suppress(OSError), target.client.begin(body, receive_buffer_bytes=2048) as connection:
        for _ in range(chance.randrange(5, 30)):
            connection.recv(10, socket.MSG_PEEK)
            pause(0.1)
        target.account.add(read(connection, str(body["model"]), began))


@fault
def client_reads_nothing(target: Target, chance: random.Random) -> None:
    model = chance.choice(REAL)
    body = {"model": model, "messages": MESSAGES, **LONG}
    with contextlib.suppress(OSError), target.client.begin(body, receive_buffer_bytes=2048):
        target.account.add_left(model)
        pause(chance.uniform(2, 8))
    target.ask(model)


@fault
def heads_trickle_in(target: Target, chance: random.Random) -> None:
    with contextlib.ExitStack() as stack:
        began, halves = time.monotonic(), []
        for _ in range(40):
            halves.append(half := stack.enter_context(target.client.connect()))
            half.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n")
        for _ in range(6):
            pause(0.4)
            for half in halves:
                with contextlib.suppress(OSError):
                    half.sendall(b"X-A: 1\r\n")
        for half in halves:
            target.expect(read(half, "a half-sent head", began), "request_timeout", "overloaded")


@fault
def body_trickles_in(target: Target, chance: random.Random) -> None:
    began = time.monotonic()
    with target.client.connect() as connection:
        connection.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{{".encode())
        target.expect(read(connection, "a half-sent body", began), "request_timeout", "overloaded")


@fault
def body_too_large(target: Target, chance: random.Random) -> None:
    """Announced, or in chunks."""
    announced = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {300 * MIB}\r\n\r\n".encode()
    chunk = b"%x\r\n%s\r\n" % (MIB, b" " * MIB)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    request = announced if chance.random() < 0.5 else head + chunk * 20
    target.expect(target.client.exchange(request, "a huge body"), "request_too_large", "overloaded")


@fault
def large_bodies_at_once(target: Target, chance: random.Random) -> None:
    kinds = (b'"' + b"x" * (7 * MIB) + b'"', b"[" + b"[]," * 400_000 + b"[]]")
    request = request_bytes(b'{"model": "unknown", "a": ' + chance.choice(kinds) + b"}", CHAT)
    with Together(target) as asked:
        for _ in range(8):
            asked.do(lambda: target.expect(target.client.exchange(request, "large"), "model_not_found", "overloaded"))


@fault
def malformed_requests(target: Target, chance: random.Random) -> None:
    for case in chance.sample(CASES, 12):
        request = case.request if isinstance(case.request, bytes) else b"".join(case.request)
        target.expect(target.client.exchange(request, "malformed"), case.code, "overloaded")


@fault
def media_urls(target: Target, chance: random.Random) -> None:
    """Addresses that an engine would fetch."""
    url = chance.choice(("http://127.0.0.1:9/x", "http://169.254.169.254/", "file:///etc/passwd"))
    part = chance.choice(
        (
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "video_url", "video_url": {"url": url}},
            {"type": "input_audio", "input_audio": {"url": url}},
        )
    )
    messages = [{"role": "user", "content": [{"type": "text", "text": "?"}, part]}]
    target.expect(target.client.chat(chance.choice(REAL), messages=messages), "invalid_request", "overloaded")


@fault
def strange_protocols(target: Target, chance: random.Random) -> None:
    for data in chance.sample(STRANGE, 3):
        with contextlib.suppress(OSError), target.client.connect() as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(10)
            connection.recv(65536)


@fault
def connection_flood(target: Target, chance: random.Random) -> None:
    """Idle connections, and heads that never end."""
    with contextlib.ExitStack() as stack:
        for number in range(300):
            with contextlib.suppress(OSError):
                connection = stack.enter_context(target.client.connect())
                if number % 2:
                    connection.sendall(b"GET /health HTTP/1.1\r\n")
        target.ask(chance.choice(ALL_MODELS))
        pause(1)


@fault
def burst(target: Target, chance: random.Random) -> None:
    with Together(target) as asked:
        for number in range(150):
            asked.chat(REAL[number % 2], max_tokens=1, stream=number % 5 == 0)


@fault
def foreign_page(target: Target, chance: random.Random) -> None:
    body = b'{"model": "alpha", "messages": []}'
    for headers in (["Origin: https://evil.example"], ["Origin: null", "Content-Type: text/plain"]):
        lines = [f"POST {CHAT} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers, "", ""]
        request = "\r\n".join(lines).encode() + body
        target.expect(target.client.exchange(request, "a foreign page"), "not_allowed", "overloaded")
