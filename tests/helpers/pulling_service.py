"""A service that has been told how its download goes on: it sends these states."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, dict[str, Any]]


class _Handler(BaseHTTPRequestHandler):
    server: PullingService

    def do_GET(self) -> None:
        if self.path.startswith("/v1/models/"):
            self._send((404, {"error": {"message": "it is not here", "code": "model_not_found"}}))
            return
        self._send((200, {"servers": [], "downloads": self.server.before, "may_pull": self.server.may_pull}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.orders.append((self.path, body))
        if self.path != "/models/pull":
            self._send((200, {"success": True}))
        elif self.server.answer:
            self._send(self.server.answer)
        else:
            self._stream()

    def do_DELETE(self) -> None:
        self.server.orders.append((self.path, {}))
        self._send((200, {"success": True, "freed_bytes": self.server.freed_bytes}))

    def _stream(self) -> None:
        self.send_response(200)
        self.end_headers()
        for state in self.server.states:
            self.wfile.write(json.dumps(state).encode() + b"\n")
        if self.server.hangs:
            self.server.released.wait(60)

    def _send(self, answer: Answer) -> None:
        data = json.dumps(answer[1]).encode()
        self.send_response(answer[0])
        self.send_header("Content-Length", str(len(data)))
        self.send_header("x-llama-smart-proxy-error", "1")
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


class PullingService(ThreadingHTTPServer):
    """`states`: of the download. `before`: the downloads that are there already. `hangs`: after the last state.
    `freed_bytes`: by each deletion."""

    daemon_threads = True

    def __init__(
        self,
        states: Sequence[dict[str, Any]],
        before: Sequence[dict[str, Any]] = (),
        answer: Answer | None = None,
        may_pull: bool = True,
        hangs: bool = False,
        freed_bytes: int = 0,
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.states, self.before, self.answer, self.may_pull = states, before, answer, may_pull
        self.hangs, self.released = hangs, threading.Event()
        self.freed_bytes = freed_bytes
        self.orders: list[tuple[str, dict[str, Any]]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def pulling(*states: dict[str, Any], **how: Any) -> Iterator[PullingService]:
    with PullingService(states, **how) as service:
        threading.Thread(target=service.serve_forever, args=(0.01,), daemon=True).start()
        yield service
        service.released.set()
        service.shutdown()
