"""Header hygiene (RFC 9110, 7.6.1): what goes on to the engine, and what of its answer goes on to the client."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from app.ports import Address
from workers.relay.upstream import Reply, connection_options

# What a client may say to the engine. Its Authorization, cookies and hop-by-hop headers are none of these; nor is
# X-Conversation-Id, which makes llama-server (11434) go on generating for a client that has left.
REQUEST_HEADERS = ("Accept", "X-Request-Id", "Traceparent", "Tracestate")

# Whatever the client calls its JSON: llama-server takes a form, which is what curl -d says, only up to 1 MiB.
CONTENT_TYPE = "application/json"
MULTIPART = "multipart/form-data"  # this one is told as it is: its boundary is in it

# RFC 9110 7.6.1, and what we say ourselves.
NOT_FORWARDED = {
    *("connection", "keep-alive", "proxy-authenticate", "proxy-connection", "te", "trailer", "transfer-encoding"),
    *("upgrade", "server", "date", "set-cookie", "set-cookie2", "location", "x-request-id"),
}
NOT_FORWARDED_PREFIXES = ("access-control-", "x-llama-smart-proxy-")  # the latter would make it look like ours
# A traceparent (W3C Trace Context, 3.2).
_TRACE = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # RFC 9110 5.5; gunicorn refuses any other


def request_headers(said: Callable[[str], str], to: Address) -> dict[str, str]:
    """What the engine is told of a request: an allow-list, our key, and a trace, the client's or a new one."""
    named = connection_options([("Connection", said("Connection"))])
    kept = {name: value for name in REQUEST_HEADERS if (value := said(name)) and name.lower() not in named}
    if not _TRACE.fullmatch(kept.get("Traceparent", "")):
        kept.pop("Tracestate", None)  # it belongs to the trace that cannot be read
        kept["Traceparent"] = f"00-{random.getrandbits(128):032x}-{random.getrandbits(64):016x}-00"
    told = said("Content-Type")
    kind = told if told.lower().startswith(MULTIPART) else CONTENT_TYPE
    return {"Host": f"127.0.0.1:{to.port}"} | kept | {"Content-Type": kind, "Authorization": f"Bearer {to.api_key}"}


def response_headers(reply: Reply) -> list[tuple[str, str]]:
    """What the client is told of an answer."""
    dropped = NOT_FORWARDED | connection_options(reply.headers)
    return [
        (name, value)
        for name, value in reply.headers
        if name.lower() not in dropped
        and not name.lower().startswith(NOT_FORWARDED_PREFIXES)
        and _HEADER_VALUE.fullmatch(value)
    ]
