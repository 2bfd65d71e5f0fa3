"""The whole service with each path that an answer can take, an engine that sends given bytes, and a strict client."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h11
import psutil

from tests.helpers.builders import a_gguf
from tests.helpers.fake_llama_server import install_fake
from tests.helpers.service import Service

ANOTHER_SERVER = str(Path(__file__).with_name("another_server.py"))
PROGRAMS = {
    "socket": ("-m", "app.commands.cli"),
    "gunicorn": (ANOTHER_SERVER, "gunicorn"),
    "werkzeug": (ANOTHER_SERVER, "werkzeug"),
}
# Direct to the client's socket; as WSGI chunks: to an HTTP/1.0 client, by gunicorn's framing, by another server's.
WAYS = ("socket", "HTTP/1.0", "gunicorn", "werkzeug")
SECONDS = 10.0
CHAT = b'{"model": "m"}'


@dataclass
class Got:
    """What a client received, parsed by h11, which is strict and independent of our code."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    is_whole: bool  # the message ended as its framing requires
    seen: bytes  # the request that the engine received

    def header(self, name: str) -> str | None:
        return next((value for each, value in self.headers if each == name), None)


class Ways:
    """One service for each program, started on first use."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self._folder = folder
        self._settings = {"UPSTREAM__FIRST_BYTE_SECONDS": "1", "UPSTREAM__STALL_SECONDS": "1"} | settings
        self._services: dict[str, Service] = {}
        self._open = contextlib.ExitStack()
        self._names = map(str, itertools.count())

    def service(self, way: str) -> Service:
        program = "socket" if way == "HTTP/1.0" else way
        if program not in self._services:
            self._services[program] = self._start(program)
        return self._services[program]

    def _start(self, program: str) -> Service:
        folder = self._folder / program
        (folder / "models").mkdir(parents=True)
        (folder / "answers").mkdir()
        a_gguf(folder / "models" / "m.gguf")
        (folder / "journal").touch()
        fake = {"FAKE_ANSWERS": folder / "answers", "FAKE_JOURNAL": folder / "journal", "FAKE_PORT_ZERO": 1}
        fake |= {"FAKE_STREAM_TOKENS": 1, "FAKE_TOKEN_DELAY_SECONDS": 0}
        binary = install_fake(folder / "bin", **{name: str(value) for name, value in fake.items()})
        settings = {"ENGINE__BINARY": str(binary), "DEFAULTS__PARALLEL": "256"} | self._settings
        models = ("--models-dir", str(folder / "models"))
        service = Service(folder, *models, program=PROGRAMS[program], **settings)
        self._open.callback(service.end)
        assert service.chat("m").status_code == 200
        return service

    def worker(self, way: str) -> psutil.Process:
        service = self.service(way)
        return service.master if way == "werkzeug" else service.worker

    def close(self) -> None:
        self._open.close()

    def send(
        self,
        way: str,
        answer: bytes,
        *,
        method: str = "POST",
        headers: Sequence[str] = (),
        body: bytes = CHAT,
        then: str = "",
        parts: Sequence[int] = (),
        receive_buffer_bytes: int | None = None,
    ) -> tuple[socket.socket, Path]:
        """Send a request that the engine answers with these bytes; returns the connection, and the file to which the
        engine writes the request."""
        service, name = self.service(way), next(self._names)
        path = service.folder / "answers" / name
        path.write_bytes(answer)
        target = "/slots?model=m&" if method in ("GET", "HEAD") else "/v1/completions?"
        target += f"say={name}&then={then}&parts={','.join(map(str, parts))}"
        lines = [f"{method} {target} {'HTTP/1.0' if way == 'HTTP/1.0' else 'HTTP/1.1'}", "Host: localhost", *headers]
        if method not in ("GET", "HEAD"):
            lines.append(f"Content-Length: {len(body)}")
        connection = service.connect(receive_buffer_bytes)
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + (body if method == "POST" else b""))
        return connection, path.with_name(f"{name}.seen")

    def ask(self, way: str, answer: bytes, method: str = "POST", **more: object) -> Got:
        """Like `send`, and receive the answer."""
        connection, seen = self.send(way, answer, method=method, **more)  # type: ignore[arg-type]
        with connection:
            got = read(connection, method)
        got.seen = seen.read_bytes() if seen.exists() else b""
        return got


def read(connection: socket.socket, method: str = "POST") -> Got:
    """Receive one answer. If the connection ends or is reset too early, the answer is not `is_whole`."""
    reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    reader.send(h11.Request(method=method, target="/", headers=[("Host", "localhost")]))
    reader.send(h11.EndOfMessage())
    got, pieces = Got(0, [], b"", False, b""), []
    connection.settimeout(SECONDS)
    with contextlib.suppress(h11.RemoteProtocolError, ConnectionResetError):
        while not isinstance(event := reader.next_event(), h11.EndOfMessage | h11.ConnectionClosed):
            if event is h11.NEED_DATA:
                reader.receive_data(connection.recv(1 << 18))
            elif isinstance(event, h11.Response):
                got.status = event.status_code
                got.headers = [(name.decode(), value.decode("latin-1")) for name, value in event.headers]
            elif isinstance(event, h11.Data):
                pieces.append(bytes(event.data))
        got.is_whole = isinstance(event, h11.EndOfMessage) and not reader.trailing_data[0]
    got.body = b"".join(pieces)
    return got


@contextlib.contextmanager
def all_ways(folder: Path, **settings: str) -> Iterator[Ways]:
    ways = Ways(folder, **settings)
    try:
        yield ways
    finally:
        ways.close()
