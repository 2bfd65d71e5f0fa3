"""The service's command line, with answers that are not sent directly to gunicorn's sockets.

`another_server.py gunicorn serve ...`: gunicorn, reporting an untested version. `another_server.py werkzeug serve ...`:
a server other than gunicorn.
"""

from __future__ import annotations

import sys
from typing import Any

import gunicorn
from werkzeug.serving import WSGIRequestHandler, make_server

from app.commands import cli
from workers import serve
from workers.telemetry.refusal_log import RefusalLog


class Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_request(self, *_: Any) -> None:
        pass


class Werkzeug(serve.Application):
    """Replaces gunicorn in the command line."""

    def run(self) -> None:
        runtime, application = self.load_service(RefusalLog())
        server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Handler)
        self._announce(runtime, f"http://127.0.0.1:{server.server_port}")
        server.serve_forever()


if __name__ == "__main__":
    if sys.argv.pop(1) == "werkzeug":
        serve.Application = Werkzeug  # type: ignore[misc]
    else:
        gunicorn.version_info = (1000, 0, 0)
    cli.main()
