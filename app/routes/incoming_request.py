"""IncomingRequest: an HTTP request as authorization and the inference routes read it, from the WSGI environ alone.

Inference requests bypass Flask; a route that Flask answers gets the same view of its request from `current_request()`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from flask import g
from flask import request as flask_request
from werkzeug.http import parse_options_header

from app.entities.key import ApiKey
from app.services import Services, services

_REQUEST_ID = re.compile(r"[!#-<>-~]{1,128}")  # printable, and nothing that would look like another field of a log line


class IncomingRequest:
    """What a request says. `key` is the one it came in with, once it is through the doors."""

    __slots__ = ("endpoint", "environ", "key", "method", "request_id", "services")

    def __init__(self, environ: dict[str, Any], services: Services, endpoint: str) -> None:
        self.environ = environ
        self.services = services
        self.endpoint = endpoint  # Flask's name of the route; "" for a path that is none of ours
        self.method: str = environ["REQUEST_METHOD"]
        self.key: ApiKey | None = None
        given = self.header("X-Request-Id")
        # It names a request, and keeps no secret.
        self.request_id = given if _REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"

    def header(self, name: str) -> str:
        """A header's text, its bytes read as Latin-1; "" without it."""
        value: str = self.environ.get(_VARIABLE.get(name) or _variable(name), "")
        return value

    def has(self, name: str) -> bool:
        """Whether the header is there, be it empty."""
        return _variable(name) in self.environ

    @property
    def path(self) -> str:
        """With one slash in front: some clients add theirs to a base URL's."""
        return "/" + _text(self.environ.get("PATH_INFO", "")).lstrip("/")

    @property
    def query(self) -> bytes:
        query: str = self.environ.get("QUERY_STRING", "")
        return query.encode("latin-1")

    def arguments(self, name: str) -> list[str]:
        """What the address says of it, each time it does."""
        query: str = self.environ.get("QUERY_STRING", "")
        said = parse_qsl(_text(query), keep_blank_values=True) if query else ()
        return [value for each, value in said if each == name]

    @property
    def mimetype(self) -> str:
        return self.header("Content-Type").partition(";")[0].strip().lower()

    @property
    def boundary(self) -> str:
        """Of its form's parts."""
        return parse_options_header(self.header("Content-Type"))[1].get("boundary", "")

    @property
    def announced_bytes(self) -> int:
        """The length its body is said to have; 0 where nothing is said."""
        said = self.header("Content-Length")
        return int(said) if said.isdecimal() else 0

    @property
    def has_body(self) -> bool:
        return self.announced_bytes > 0 or "chunked" in self.header("Transfer-Encoding").lower()

    @property
    def client(self) -> str:
        """The address it came from."""
        address: str = self.environ.get("REMOTE_ADDR", "")
        return address


def current_request() -> IncomingRequest:
    """The request that Flask is answering."""
    if "current_request" not in g:
        g.current_request = IncomingRequest(flask_request.environ, services(), flask_request.endpoint or "")
    found: IncomingRequest = g.current_request
    return found


def _text(said: str) -> str:
    """WSGI's Latin-1 is UTF-8."""
    return said if said.isascii() else said.encode("latin-1").decode("utf-8", "replace")


def _variable(name: str) -> str:
    """CGI's name of a header."""
    return "HTTP_" + name.upper().replace("-", "_")


_NO_HTTP: Mapping[str, str] = {"Content-Type": "CONTENT_TYPE", "Content-Length": "CONTENT_LENGTH"}
_USUAL = ("X-Request-Id", "Host", "Origin", "Authorization", "X-Api-Key", "Accept", "Traceparent", "Tracestate")
_VARIABLE = {**{name: _variable(name) for name in _USUAL}, **_NO_HTTP}
