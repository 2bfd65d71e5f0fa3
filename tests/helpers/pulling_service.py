"""A service that has been told how its download goes on: one state for each GET /status."""

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
        downloads = [self.server.next_state()] if self.server.has_begun else self.server.before
        self._send((200, {"servers": [], "downloads": downloads, "may_pull": self.server.may_pull}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.orders.append((self.path, body))
        if self.path == "/models/pull":
            self.server.has_begun = True
            self._send(self.server.answer or (202, self.server.states[0]))
        else:
            self._send((200, {"success": True}))

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
    """`states`: of the download, the last one for ever. `before`: those that are there already."""

    daemon_threads = True

    def __init__(
        self,
        states: Sequence[dict[str, Any]],
        before: Sequence[dict[str, Any]] = (),
        answer: Answer | None = None,
        may_pull: bool = True,
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.states, self.before, self.answer, self.may_pull = list(states), list(before), answer, may_pull
        self.has_begun = False
        self.orders: list[tuple[str, dict[str, Any]]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def next_state(self) -> dict[str, Any]:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]


@contextlib.contextmanager
def pulling(*states: dict[str, Any], **how: Any) -> Iterator[PullingService]:
    with PullingService(states, **how) as service:
        threading.Thread(target=service.serve_forever, args=(0.01,), daemon=True).start()
        yield service
        service.shutdown()
