"""IncomingRequest: an HTTP request as authorization and the inference routes read it, from the WSGI environ alone.

Inference requests bypass Flask; a route that Flask answers gets the same view of its request from `current_request()`.
"""

from __future__ import annotations

import random
import re
import string
from typing import Any
from urllib.parse import parse_qsl, quote

from flask import g
from flask import request as flask_request
from werkzeug.http import parse_options_header
from werkzeug.wsgi import get_input_stream

from app.entities.client_address import network_of
from app.entities.key import ApiKey
from app.errors import ErrorForm, error_form
from app.ports import BodyFile, RequestBody, UpstreamRequest, WatchedClient
from app.request_body.content import MULTIPART
from app.request_body.content_coding import content_codings
from app.routes.paths import PLAIN_ROUTES
from app.services import Services, services

_REQUEST_ID = re.compile(r"[!#-<>-~]{1,128}")  # printable, and nothing that looks like another field of a log line
QUERY_SAFE = string.punctuation  # what is encoded stays so
PATH_SAFE = "/:@!$&'()*+,;=~"

# What a client may send to the engine. Its Authorization, cookies and hop-by-hop headers are not among these; nor is
# X-Conversation-Id, with which llama-server (11434) continues to generate for a client that has disconnected.
FORWARDED_HEADERS = ("Accept", "Traceparent", "Tracestate")  # and X-Request-Id, with our own value if it has none
# Whatever the client calls its JSON: llama-server accepts a form, curl's default for -d, only up to 1 MiB.
CONTENT_TYPE = "application/json"
# A traceparent (W3C Trace Context, 3.2).
_TRACE = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class IncomingRequest:
    """One HTTP request. `key`: the API key that it was authorized with; `settings`: those in force when it came."""

    __slots__ = ("endpoint", "environ", "key", "method", "request_id", "services", "settings")

    def __init__(self, environ: dict[str, Any], services: Services, endpoint: str) -> None:
        self.environ = environ
        self.services = services
        self.settings = services.settings
        self.endpoint = endpoint  # Flask's name of the route; "" for a path without one
        self.method: str = environ["REQUEST_METHOD"]
        self.key: ApiKey | None = None
        given = self.header("X-Request-Id")
        # An identifier, not a secret: a cryptographic generator would cost more for nothing.
        self.request_id = given if _REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"

    def header(self, name: str) -> str:
        """A header's text, its bytes read as Latin-1; "" without it."""
        value: str = self.environ.get(_VARIABLE.get(name) or _variable(name), "")
        return value

    def has(self, name: str) -> bool:
        """Whether the header is present, even if it is empty."""
        return _variable(name) in self.environ

    @property
    def path(self) -> str:
        """The path with exactly one slash in front: some clients add theirs to a base URL's."""
        return "/" + _text(self.environ.get("PATH_INFO", "")).lstrip("/")

    @property
    def error_form(self) -> ErrorForm:
        """That of the API which the request is for."""
        return error_form(self.path)

    def arguments(self, name: str) -> list[str]:
        """All values of a query parameter."""
        query: str = self.environ.get("QUERY_STRING", "")
        pairs = parse_qsl(_text(query), keep_blank_values=True) if query else ()
        return [value for key, value in pairs if key == name]

    @property
    def wants_scan(self) -> bool:
        """Whether a list of models should look for new files first."""
        return self.arguments("reload")[:1] == ["1"]

    @property
    def mimetype(self) -> str:
        return self.header("Content-Type").partition(";")[0].strip().lower()

    @property
    def boundary(self) -> str:
        """The boundary of a multipart form."""
        return parse_options_header(self.header("Content-Type"))[1].get("boundary", "")

    @property
    def announced_bytes(self) -> int:
        """The announced length of the body; 0 without one."""
        length = self.header("Content-Length")
        return int(length) if length.isdecimal() else 0

    @property
    def has_body(self) -> bool:
        return self.announced_bytes > 0 or "chunked" in self.header("Transfer-Encoding").lower()

    @property
    def client_address(self) -> str:
        """The IP address of the client, or of the proxy in front."""
        address: str = self.environ.get("REMOTE_ADDR", "")
        return address

    @property
    def _client(self) -> str:
        """Whose share of the memory for bodies this request takes."""
        return f"key {self.key.name}" if self.key else network_of(self.client_address)

    def watch_client(self) -> WatchedClient:
        """A watch over the client's connection; close it."""
        return self.services.clients.watch(self.environ.get("gunicorn.socket"))

    def receive_body(self) -> RequestBody:
        """The decoded body; close it. Raises RequestTooLarge and Overloaded: by the announced length, or as soon as
        more has arrived; UnsupportedEncoding, and InvalidRequest for a body that is not encoded as its header says."""
        header = self.header("Content-Encoding")
        codings = content_codings(header) if header else ()
        # A server that does not end its stream with the body is asked for the announced bytes only.
        read = get_input_stream(self.environ).read
        return self.services.bodies.receive(read, self.announced_bytes, self._client, codings)

    def for_engine(self, body: bytes | BodyFile) -> UpstreamRequest:
        """The request that goes to a llama-server: the same method, path, query and body, and headers of a list."""
        return UpstreamRequest(self.method, self._target(), self._forwarded_headers(), body, self.error_form)

    def _target(self) -> str:
        """The path and query, encoded anew: what was checked is what is sent."""
        path, query = self.path, self.environ.get("QUERY_STRING", "").encode("latin-1")
        if not query and path in PLAIN_ROUTES:
            return path
        path = quote(path, safe=PATH_SAFE)
        return f"{path}?{quote(query, safe=QUERY_SAFE)}" if query else path

    def _forwarded_headers(self) -> dict[str, str]:
        options = {option.strip(" \t").lower() for option in self.header("Connection").split(",")}
        headers = {
            name: value for name in FORWARDED_HEADERS if (value := self.header(name)) and name.lower() not in options
        }
        if "x-request-id" not in options:
            headers["X-Request-Id"] = self.request_id
        if not _TRACE.fullmatch(headers.get("Traceparent", "")):
            headers.pop("Tracestate", None)  # it belongs to the trace that cannot be read
            headers["Traceparent"] = f"00-{random.getrandbits(128):032x}-{random.getrandbits(64):016x}-00"
        # The engine reads any type that begins with MULTIPART as a form; what was checked as JSON must arrive as JSON.
        headers["Content-Type"] = self.header("Content-Type") if self.mimetype == MULTIPART else CONTENT_TYPE
        return headers


def current_request() -> IncomingRequest:
    """The request that Flask is answering."""
    if "current_request" not in g:
        g.current_request = IncomingRequest(flask_request.environ, services(), flask_request.endpoint or "")
    request: IncomingRequest = g.current_request
    return request


def _text(latin_1: str) -> str:
    """A string of WSGI, whose bytes are UTF-8."""
    return latin_1 if latin_1.isascii() else latin_1.encode("latin-1").decode("utf-8", "replace")


def _variable(name: str) -> str:
    """CGI's name of a header."""
    return "HTTP_" + name.upper().replace("-", "_")


_COMMON = (
    "X-Request-Id",
    "Host",
    "Origin",
    "Sec-Fetch-Site",
    "Authorization",
    "X-Api-Key",
    "Api-Key",
    "Accept",
    "Connection",
    "Content-Encoding",
    "Traceparent",
)
_VARIABLE = {
    **{name: _variable(name) for name in (*_COMMON, "Tracestate")},
    "Content-Type": "CONTENT_TYPE",
    "Content-Length": "CONTENT_LENGTH",
}
