"""A server with OpenAI's API that does what a test tells it: answers, hangs, refuses, redirects, cuts, disappears."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behavior = Callable[["Handler"], None]
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


@dataclass(frozen=True)
class Received:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes


@dataclass
class ScriptedPeer:
    """Runs while its context is open; `stop` and `start` are those of its listening socket, on the same port."""

    models: list[str] = field(default_factory=lambda: ["m"])
    listing: Behavior | None = None  # instead of the list of `models`
    behavior: Behavior | None = None  # instead of a chat completion
    tls: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        self.received: list[Received] = []
        self.released = threading.Event()  # those that hang go on
        self.port = 0
        self.start()

    def start(self) -> None:
        self._server = _Server(("127.0.0.1", self.port), self)
        if self.tls:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def posts(self) -> list[Received]:
        return [each for each in self.received if each.method == "POST"]

    def __enter__(self) -> ScriptedPeer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.released.set()
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], peer: ScriptedPeer) -> None:
        self.peer = peer
        super().__init__(address, Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that disconnects is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._receive()
        if self.peer.listing:
            self.peer.listing(self)
        elif self.path.endswith("/models"):
            self.send_json({"object": "list", "data": [{"id": each, "created": 7} for each in self.peer.models]})
        else:
            self.send_json({"error": {"message": "no such path"}}, 404)

    def do_POST(self) -> None:
        self._receive()
        (self.peer.behavior or completes)(self)

    @property
    def peer(self) -> ScriptedPeer:
        return self.server.peer

    @property
    def last(self) -> Received:
        return self.peer.received[-1]

    def send_json(self, value: object, status: int = 200, **headers: str) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        self.wfile.write(data)

    def send_events(self, events: Iterator[bytes]) -> None:
        """Begin a stream, and send these; its end is another `chunk`."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in events:
            self.chunk(event)

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def cut(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(2)

    def _receive(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", "0")))
        self.peer.received.append(Received(self.command, self.path, headers, body))

    def log_message(self, format: str, *args: Any) -> None:
        pass


def event(number: int) -> bytes:
    return b"data: %s\n\n" % json.dumps({"choices": [{"index": 0, "delta": {"content": str(number)}}]}).encode()


def completes(handler: Handler) -> None:
    """A whole chat completion, or a stream of three events."""
    if b'"stream":true' not in handler.last.body.replace(b" ", b""):
        message = {"role": "assistant", "content": "hello"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return handler.send_json({"object": "chat.completion", "choices": [choice], "usage": USAGE})
    handler.send_events(map(event, range(3)))
    handler.chunk(b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n')
    handler.chunk(b"data: %s\n\ndata: [DONE]\n\n" % json.dumps({"choices": [], "usage": USAGE}).encode())
    handler.wfile.write(b"0\r\n\r\n")
    return None


def hangs(handler: Handler) -> None:
    handler.peer.released.wait(60)
    handler.cut()


def cuts_a_stream(handler: Handler) -> None:
    handler.send_events(map(event, range(2)))
    handler.cut()


def never_ends(handler: Handler) -> None:
    """A stream that goes on until the client has left, or the test is over."""
    handler.send_events(map(event, range(2)))
    while not handler.peer.released.wait(0.01):
        handler.chunk(event(9))


def sends(data: bytes) -> Behavior:
    """Bytes instead of an answer, and the end of the connection."""

    def behavior(handler: Handler) -> None:
        handler.wfile.write(data)
        handler.cut()

    return behavior


def answers(status: int, **headers: str) -> Behavior:
    return lambda handler: handler.send_json({"error": {"message": "scripted"}}, status, **headers)
