"""RequestHandler: one request on a request thread, from its complete head to the end of its answer.

gunicorn parses the head and frames the answer; the environ is that of PEP 3333 plus the client's socket.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import logging
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote_to_bytes

from gunicorn.config import Config
from gunicorn.http import Request
from gunicorn.http.errors import UnsupportedTransferCoding
from gunicorn.http.wsgi import Response

from app.errors import ProxyError, error_form
from app.services import ANSWER_HEADERS, CLIENT_SOCKET
from workers.gunicorn_worker.body_reading import BodyFailed, BodyReader, PacedUnreader
from workers.gunicorn_worker.client_socket import direct_answer, has_no_body
from workers.gunicorn_worker.error_answers import application_error, beginning_of_target, request_error, send_error
from workers.gunicorn_worker.receiving import ClientConnection
from workers.gunicorn_worker.timeouts import WorkerTimeouts
from workers.telemetry.refusal_log import RefusalLog

log = logging.getLogger(__name__)

_CLIENT_DISCONNECTED = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)


class After(enum.Enum):
    """What happens to a connection after a request."""

    KEEP = enum.auto()
    CLOSE = enum.auto()
    RESET = enum.auto()  # the answer was cut off: the client must not mistake the close for its end


class RequestHandler:
    """Answers requests by a WSGI application; stateless. `keeps_connections` says whether the connection may be kept
    after the present request."""

    def __init__(
        self,
        application: Callable[..., Iterable[bytes]],
        cfg: Config,
        timeouts: WorkerTimeouts,
        keeps_connections: Callable[[], bool],
        refusals: RefusalLog,
    ) -> None:
        self._application = application
        self._cfg = cfg
        self._timeouts = timeouts
        self._keeps_connections = keeps_connections
        self._refusals = refusals

    def handle(self, connection: ClientConnection) -> After:
        """Answer the request whose head was received; returns what to do with the connection."""
        target = beginning_of_target(connection.received)  # the parser takes the rest
        unreader = PacedUnreader(connection, self._timeouts.receive_timeout_seconds)
        try:
            request = parse(unreader, connection, self._cfg)
        except Exception as error:
            return self._refuse(connection, request_error(error), error, target)
        body = request.body.reader = BodyReader(request, unreader, connection.sock)
        after = self._answer(request, body, connection)
        if after is After.KEEP and not body.discard():
            return After.CLOSE
        connection.received += unreader.take_rest()
        return after

    def _answer(self, request: Request, body: BodyReader, connection: ClientConnection) -> After:
        response = Response(request, connection.sock, self._cfg)
        if not self._keeps_connections():
            response.force_close()
        environ = wsgi_environ(request, connection)
        try:
            self._respond(environ, response, body)
        except BodyFailed as failure:
            return self._after_failed_body(failure.__cause__, response, connection, environ.get(ANSWER_HEADERS, ()))
        except OSError as error:
            return self._after_cut(error, connection)
        except Exception as error:
            if not response.headers_sent:
                return self._refuse(
                    connection, application_error(error), error, request.path, environ.get(ANSWER_HEADERS, ())
                )
            log.exception("answer failed path=%s", request.path)
            return _after_failed_answer(response)
        return After.CLOSE if response.should_close() or _is_short(response) else After.KEEP

    def _respond(self, environ: dict[str, Any], response: Response, body: BodyReader) -> None:
        environ[CLIENT_SOCKET] = direct_answer(environ, response.start_response)

        def start_response(*arguments: Any) -> Callable[[bytes], None]:
            if not body.is_received:  # nobody will wait for the rest
                response.force_close()
            write: Callable[[bytes], None] = response.start_response(*arguments)
            return write

        chunks = self._application(environ, start_response)
        with contextlib.ExitStack() as stack:
            if (close := getattr(chunks, "close", None)) is not None:
                stack.callback(close)
            if body.failure is not None:  # even if the application handled it
                raise body.failure
            for chunk in chunks:
                response.write(chunk)
            response.close()

    def _after_failed_body(
        self,
        cause: BaseException | None,
        response: Response,
        connection: ClientConnection,
        more_headers: Iterable[tuple[str, str]],
    ) -> After:
        # No error response if the client reset the connection.
        is_reset = isinstance(cause, OSError) and cause.errno is not None
        if response.headers_sent:
            return _after_failed_answer(response)
        if is_reset:
            return After.CLOSE
        return self._refuse(connection, request_error(cause), cause, response.req.path, more_headers)

    def _after_cut(self, error: OSError, connection: ClientConnection) -> After:
        if isinstance(error, BlockingIOError):  # SO_SNDTIMEO
            seconds = self._timeouts.send_timeout_seconds
            log.info("client=%s read nothing for %g s", connection.client, seconds)
        elif error.errno not in _CLIENT_DISCONNECTED:
            log.error("client socket failed", exc_info=error)
        return After.RESET

    def _refuse(
        self,
        connection: ClientConnection,
        problem: ProxyError,
        error: BaseException | None,
        path: str | None = None,
        more_headers: Iterable[tuple[str, str]] = (),
    ) -> After:
        """`more_headers`: what the application adds to every answer."""
        if problem.status == 500:
            log.error("request failed path=%s", path, exc_info=error)
        else:
            self._refusals.note(problem, connection.address, time.monotonic())
        send_error(connection.sock, problem, error_form(path or ""), more_headers)
        return After.CLOSE


def _after_failed_answer(response: Response) -> After:
    """RESET if the answer ends with its connection: only a length or chunks show the client that it is cut off."""
    return After.CLOSE if response.chunked or response.response_length is not None else After.RESET


def _is_short(response: Response) -> bool:
    """Whether the body is shorter than its Content-Length: the client would read the next answer as its rest."""
    length = response.response_length
    return length is not None and response.sent < length and not has_no_body(response)


def parse(unreader: PacedUnreader, connection: ClientConnection, cfg: Config) -> Request:
    """Parse the received head. Raises gunicorn's ParseException."""
    request = Request(cfg, unreader, connection.client)
    if any(name == "TRANSFER-ENCODING" and value.lower() != "chunked" for name, value in request.headers):
        raise UnsupportedTransferCoding("`chunked` is the only supported transfer coding")
    options = (value.lower() for name, value in request.headers if name == "CONNECTION")
    says_close = "close" in {each.strip(" \t") for value in options for each in value.split(",")}
    # gunicorn checks only the first such header for `close`. What follows a CONNECT is not HTTP (RFC 9931, 8).
    if says_close or request.method == "CONNECT":
        request.force_close()
    return request


def wsgi_environ(request: Request, connection: ClientConnection) -> dict[str, Any]:
    """PEP 3333's environ of a request."""
    return {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(request.path).decode("latin-1"),
        "QUERY_STRING": request.query,
        "RAW_URI": request.uri,
        "SERVER_NAME": connection.server[0],
        "SERVER_PORT": str(connection.server[1]),
        "SERVER_PROTOCOL": "HTTP/{}.{}".format(*request.version),
        "REMOTE_ADDR": connection.client[0],
        "REMOTE_PORT": str(connection.client[1]),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": request.body,
        "wsgi.input_terminated": True,  # EOF at the end of the body, even without Content-Length
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "gunicorn.socket": connection.sock,
        **_header_variables(request.headers),
    }


def _header_variables(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """CGI variables of the headers. Names are upper case; the parser drops those with `_`, which would be ambiguous."""
    variables: dict[str, str] = {}
    for name, value in headers:
        key = name.replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = f"HTTP_{key}"
        variables[key] = f"{variables[key]},{value}" if key in variables else value
    return variables
