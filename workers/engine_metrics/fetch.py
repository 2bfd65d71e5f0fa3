"""Fetches a path of several llama-servers at the same time, so that one that hangs delays none of the others."""

from __future__ import annotations

import http.client
import io
import selectors
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

from app.ports import Address

TIMEOUT_SECONDS = 1.0
MAX_ANSWER_BYTES = 4 * 1024 * 1024  # /slots includes the prompts
RECEIVE_BYTES = 64 * 1024


@dataclass(slots=True)
class _Exchange:
    address: Address
    request: bytes
    answer: bytearray = field(default_factory=bytearray)
    is_complete: bool = False


def fetch(addresses: Sequence[Address], path: str, seconds: float = TIMEOUT_SECONDS) -> list[tuple[Address, bytes]]:
    """The bodies of the answers with status 200 that arrive within so many seconds, in all; no other answer counts."""
    deadline, exchanges = time.monotonic() + seconds, [_Exchange(each, _request(each, path)) for each in addresses]
    with selectors.DefaultSelector() as selector:
        for exchange in exchanges:
            with suppress(OSError):
                selector.register(_connecting(exchange.address.port), selectors.EVENT_WRITE, exchange)
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                _advance(selector, key)
        for key in list(selector.get_map().values()):
            _close(selector, key)
    return [(each.address, body) for each in exchanges if each.is_complete and (body := _body(each.answer)) is not None]


def _request(address: Address, path: str) -> bytes:
    head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    return f"{head}Authorization: Bearer {address.api_key}\r\n\r\n".encode()


def _connecting(port: int) -> socket.socket:
    connection = socket.socket()
    connection.setblocking(False)
    connection.connect_ex(("127.0.0.1", port))  # a failure shows at the first write
    return connection


def _advance(selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    """Write the request, or read what has arrived of the answer."""
    exchange, connection = cast(_Exchange, key.data), cast(socket.socket, key.fileobj)
    try:
        if key.events == selectors.EVENT_WRITE:
            connection.sendall(exchange.request)  # fits into an empty send buffer
            selector.modify(connection, selectors.EVENT_READ, exchange)
            return
        exchange.answer += (received := connection.recv(RECEIVE_BYTES))
        exchange.is_complete = not received
    except OSError:
        received = b""
    if not received or len(exchange.answer) > MAX_ANSWER_BYTES:
        _close(selector, key)


def _close(selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    selector.unregister(key.fileobj)
    cast(socket.socket, key.fileobj).close()


def _body(answer: bytes | bytearray) -> bytes | None:
    """The body of an HTTP answer; None if its status is not 200, or if it is none."""
    response = http.client.HTTPResponse(cast(socket.socket, _Received(bytes(answer))))
    with suppress(http.client.HTTPException, ValueError):
        response.begin()
        body = response.read()
        return body if response.status == 200 else None
    return None


@dataclass(frozen=True, slots=True)
class _Received:
    """What http.client reads an answer from, in place of a socket."""

    answer: bytes

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self.answer)
