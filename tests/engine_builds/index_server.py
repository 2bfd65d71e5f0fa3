"""An index of packages on loopback, as pip asks it, with faults that a test switches."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONTENT = bytes(range(256)) * 4000
VERSION = "2026.11.11900"
NAME = f"xllamacpp-{VERSION}.tar.gz"


class IndexServer:
    """Serves NAME, in JSON unless `is_html`."""

    def __init__(self) -> None:
        self.is_html = False
        self.status = 200  # of the page of the package
        self.sha256 = hashlib.sha256(CONTENT).hexdigest()
        self.cut_at: int | None = None  # the connection ends after this many bytes of the file
        self.heeds_ranges = True
        self.ranges: list[str | None] = []  # asked for, one per download
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/simple"

    def __enter__(self) -> IndexServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def page(self) -> tuple[str, bytes]:
        """(media type, body)."""
        if self.is_html:
            href = f"../../files/{NAME}#sha256={self.sha256}"
            return "text/html", f'<a href="{href}" data-requires-python="&gt;=3.9">{NAME}</a><a>bare</a>'.encode()
        other = {"filename": "xllamacpp-2026.11.11900-cp311-cp311-linux_x86_64.whl", "url": "x.whl", "hashes": {}}
        file = {"filename": NAME, "url": f"../../files/{NAME}", "hashes": {"sha256": self.sha256}}
        body = {"files": [other, file | {"size": len(CONTENT), "yanked": False}]}
        return "application/vnd.pypi.simple.v1+json", json.dumps(body).encode()


def _handler(index: IndexServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/simple/xllamacpp/":
                media_type, body = index.page()
                self._answer(index.status, body, media_type)
            elif self.path == f"/files/{NAME}":
                self._send_file()
            else:
                self._answer(404, b"", "text/plain")

        def _send_file(self) -> None:
            asked = self.headers["Range"]
            index.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and index.heeds_ranges else 0
            self._answer(206 if start else 200, CONTENT[start:], "application/gzip", index.cut_at)

        def _answer(self, status: int, body: bytes, media_type: str, cut_at: int | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:cut_at])

        def log_message(self, *_: object) -> None:
            pass

    return Handler
