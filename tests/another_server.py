"""The service's command line, with answers that go another way than to gunicorn's sockets.

`another_server.py gunicorn serve ...`: gunicorn, whose sockets cannot be had. `another_server.py werkzeug serve ...`:
a server that is not gunicorn.
"""

from __future__ import annotations

import sys
from typing import Any

from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wsgi import LimitedStream

from app import cli
from workers import gunicorn_receiving, serve


class Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def make_environ(self) -> dict[str, Any]:
        environ = super().make_environ()
        if not environ.get("wsgi.input_terminated"):  # else a read of more than there is would wait for it
            environ["wsgi.input"] = LimitedStream(environ["wsgi.input"], int(environ.get("CONTENT_LENGTH") or 0))
        return environ

    def log_request(self, *_: Any) -> None:
        pass


class Werkzeug(serve.Application):
    """What the command line runs in gunicorn's place."""

    def run(self) -> None:
        runtime, application = self.load_service()
        server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Handler)
        self._announce(runtime, f"http://127.0.0.1:{server.server_port}")
        server.serve_forever()


if __name__ == "__main__":
    if sys.argv.pop(1) == "werkzeug":
        serve.Application = Werkzeug  # type: ignore[misc]
    else:
        assert gunicorn_receiving.direct_answer
        gunicorn_receiving.direct_answer = lambda *_: None
    cli.main()
