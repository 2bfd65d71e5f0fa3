"""A client on a plain socket, which can send anything and stop at any moment."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from dataclasses import dataclass
from typing import Any

from bench.soak.outcome import Answer

PATIENCE_SECONDS = 60.0  # the service's own limits are far shorter
CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Client:
    port: int

    def connect(self, receive_buffer_bytes: int = 0) -> socket.socket:
        connection = socket.socket()
        if receive_buffer_bytes:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        connection.settimeout(PATIENCE_SECONDS)
        connection.connect(("127.0.0.1", self.port))
        return connection

    def begin(self, body: dict[str, Any], path: str = CHAT, receive_buffer_bytes: int = 0) -> socket.socket:
        """Send a request; the caller may read its answer or leave."""
        connection = self.connect(receive_buffer_bytes)
        try:
            connection.sendall(request_bytes(json.dumps(body).encode(), path))
        except BaseException:
            connection.close()
            raise
        return connection

    def chat(self, model: str, **fields: Any) -> Answer:
        body = {"model": model, "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8, **fields}
        return self.exchange(request_bytes(json.dumps(body).encode(), CHAT), model)

    def get(self, path: str) -> Answer:
        return self.exchange(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode(), path)

    def post(self, path: str, body: dict[str, Any]) -> Answer:
        return self.exchange(request_bytes(json.dumps(body).encode(), path), path)

    def exchange(self, request: bytes, model: str) -> Answer:
        """Send a request and read its answer, however it ends."""
        began = time.monotonic()
        try:
            with self.connect() as connection:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    connection.sendall(request)  # it may be answered before it was sent completely
                return read(connection, model, began)
        except OSError as error:
            problem, seconds = f"cannot connect: {error!r}", time.monotonic() - began
            return Answer(model, problem=problem, seconds=seconds, is_refused=True)


def read(connection: socket.socket, model: str, began: float) -> Answer:
    answer, response = Answer(model), http.client.HTTPResponse(connection)
    try:
        response.begin()
        answer.status = response.status
        answer.headers = {name.lower(): value for name, value in response.getheaders()}
        answer.body = response.read()
    except (OSError, http.client.HTTPException) as error:
        answer.problem = f"{error!r} after status {answer.status}"
    answer.seconds = time.monotonic() - began
    return answer


def request_bytes(body: bytes, path: str, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", "Connection: close"]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", *headers, "", ""]).encode("latin-1") + body
