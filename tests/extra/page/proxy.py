"""A reverse proxy that serves the service below a path, as nginx does with `location /llm/ { proxy_pass URL/; }`."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

PREFIX = "/llm"


@contextlib.contextmanager
def below_a_path(url: str) -> Iterator[str]:
    """The address of the proxy's path."""
    backend = urlsplit(url).netloc

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.startswith(f"{PREFIX}/"):
                self.send_error(404, "outside of the path")
                return
            forward(self, backend)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}{PREFIX}/"
        server.shutdown()


def forward(request: http.server.BaseHTTPRequestHandler, backend: str) -> None:
    """Each piece of the answer is passed on as it comes; the connection ends with it."""
    body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
    headers = {name: value for name, value in request.headers.items() if name.lower() not in ("host", "connection")}
    connection = http.client.HTTPConnection(backend, timeout=60)
    with contextlib.closing(connection), contextlib.suppress(ConnectionError):
        connection.request(request.command, request.path.removeprefix(PREFIX), body, headers)
        answer = connection.getresponse()
        request.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                request.send_header(name, value)
        request.end_headers()
        while piece := answer.read1(65536):
            request.wfile.write(piece)
            request.wfile.flush()
