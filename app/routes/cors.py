"""CORS: lets web pages of the origins in `server.cors_origins` use the service (WHATWG Fetch, section "HTTP-CORS
protocol").

A browser asks before it sends a page's request (a preflight, which carries no key), and hides each answer from the page
that does not name its origin. Whether the request itself is accepted, authorization.py decides as for any other.

Credentials that browsers add by themselves are not allowed for any origin: a page sends its key in a header.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from app.services import ANSWER_HEADERS, AccessPolicy, Services

Headers = list[tuple[str, str]]
Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

# Each answer depends on the Origin, those without the headers too: a cache must not give one to another page.
VARY = ("Vary", "Origin")
# What a page may read of an answer, besides the headers that Fetch lists as safe.
EXPOSED = (
    *("x-request-id", "x-llama-smart-proxy-model", "x-llama-smart-proxy-device", "x-llama-smart-proxy-wait-ms"),
    *("x-llama-smart-proxy-error", "x-should-retry", "retry-after"),
)
METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"  # whether a route has the method, the request itself is told
MAX_AGE_SECONDS = 7200  # how long a browser may remember a preflight's answer; Chromium caps it there
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2


def with_cors(services: Services, application: Wsgi) -> Wsgi:
    """The application, with preflights answered and the headers on every answer, whichever way it is sent."""

    def call(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        policy = services.settings.access_policy
        if not policy.cors_origins:
            return application(environ, start_response)
        is_allowed = policy.allows_page(environ.get("HTTP_ORIGIN", ""))
        if is_allowed and _is_preflight(environ):
            start_response("204 No Content", [*_allowed_origin(environ, policy), *_preflight_headers(environ)])
            return ()
        headers = [VARY]
        if is_allowed:
            headers = [*_allowed_origin(environ, policy), ("Access-Control-Expose-Headers", ", ".join(EXPOSED))]
        environ[ANSWER_HEADERS] = headers
        return application(environ, lambda status, ours, *rest: start_response(status, [*ours, *headers], *rest))

    return call


def _is_preflight(environ: dict[str, Any]) -> bool:
    return environ["REQUEST_METHOD"] == "OPTIONS" and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ


def _allowed_origin(environ: dict[str, Any], policy: AccessPolicy) -> Headers:
    return [VARY, ("Access-Control-Allow-Origin", "*" if policy.allows_any_page else environ["HTTP_ORIGIN"])]


def _preflight_headers(environ: dict[str, Any]) -> Headers:
    headers = [("Access-Control-Allow-Methods", METHODS), ("Access-Control-Max-Age", str(MAX_AGE_SECONDS))]
    requested = environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS", "").split(",")
    # Names, not `*`, which excludes Authorization.
    if names := [name for each in requested if _TOKEN.fullmatch(name := each.strip(" \t"))]:
        headers.append(("Access-Control-Allow-Headers", ", ".join(names)))
    # A page of the internet that asks for an address of this machine or its network (WICG, Private Network Access).
    if environ.get("HTTP_ACCESS_CONTROL_REQUEST_PRIVATE_NETWORK") == "true":
        headers.append(("Access-Control-Allow-Private-Network", "true"))
    return headers
