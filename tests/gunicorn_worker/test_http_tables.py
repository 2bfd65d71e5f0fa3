"""Odd and hostile HTTP, from clients and from engines, through the whole service: one row, one case.

What a client sends is read by gunicorn, whatever way the answer takes; what an engine sends is read by us, and each of
its rows is tried by every way.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.helpers.service import Service, wait_for
from tests.helpers.ways import CHAT, SECONDS, WAYS, Got, Ways, all_ways, read
from tests.relay.test_answer_corpus import SSE, counted, head
from tests.service.test_faults import journal

OK = counted(b"ok")
LIVE = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ways]:
    with all_ways(tmp_path_factory.mktemp("ways")) as made:
        yield made
        for way in WAYS:
            output = made.service(way).output
            assert output.count("spawn server=") == 1 and "Traceback" not in output


# --- clients --------------------------------------------------------------------------------------------


def post(*headers: str, path: str = "/v1/completions", line: str = "", body: bytes = CHAT) -> bytes:
    """A request with just these headers and a Host, and another behind it."""
    first = line or f"POST {path} HTTP/1.1"
    return "\r\n".join((first, "Host: localhost", *headers, "", "")).encode("latin-1") + body + LIVE


def of_length(*headers: str, **more: str) -> bytes:
    return post(f"Content-Length: {len(CHAT)}", *headers, **more)


def in_chunks(body: bytes = b"e\r\n" + CHAT + b"\r\n0\r\n\r\n", coding: str = "chunked", *headers: str) -> bytes:
    return post(f"Transfer-Encoding: {coding}", *headers, body=body)


GET = "GET /livez HTTP/1.1"
KEPT = [200, 200]  # the request, and the one behind it
SERVED = [
    ("a length", of_length(), KEPT, 1),
    ("a length with a nought before it", post(f"Content-Length: 0{len(CHAT)}"), KEPT, 1),
    ("two on one connection", of_length()[: -len(LIVE)] + of_length(), [200, 200, 200], 2),
    ("chunks", in_chunks(), KEPT, 1),
    ("Chunks", in_chunks(coding="Chunked"), KEPT, 1),
    ("an extension", in_chunks(b"e ;a=b\r\n" + CHAT + b"\r\n0;x\r\n\r\n"), KEPT, 1),
    ("a trailer", in_chunks(b"e\r\n" + CHAT + b"\r\n0\r\nX-Api-Key: a\r\n\r\n"), KEPT, 1),
    ("a size with noughts", in_chunks(b"0" * 60 + b"e\r\n" + CHAT + b"\r\n0\r\n\r\n"), KEPT, 1),
    ("an empty line before it", b"\r\n" + of_length(), KEPT, 1),
    ("names that CGI would mix up", of_length("Transfer_Encoding: chunked", "Content_Length: 3"), KEPT, 1),
    ("an absolute address", of_length(path="http://localhost/v1/completions"), KEPT, 1),
    ("HTTP/1.0 kept", of_length("Connection: keep-alive", line="POST /v1/completions HTTP/1.0"), KEPT, 1),
    ("an upgrade is not taken up", of_length("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c",
     "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"), KEPT, 1),
    ("nor another protocol", post("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
     "Sec-WebSocket-Key: a", line="GET /slots?model=m HTTP/1.1", body=b""), [400, 200], 0),
    ("it asks first", of_length("Expect: 100-continue"), [100, 200, 200], 1),
    ("HEAD", post(line="HEAD /health HTTP/1.1", body=b""), KEPT, 0),
    ("HEAD of what is posted", post(line="HEAD /v1/completions HTTP/1.1", body=b""), [405, 200], 0),
    ("TRACE", post(line="TRACE /v1/completions HTTP/1.1", body=b""), [405, 200], 0),
    ("a body to a GET", post("Content-Length: 14", line=GET), KEPT, 0),
    ("an unread body after an error", post("Content-Length: 14", line="DELETE /v1/models HTTP/1.1"), [405, 200], 0),
    ("a large body after an error", post("Content-Length: 300000", path="/nowhere", body=b"x" * 300_000), [404, 200],
     0),
]  # fmt: skip

REFUSED = [  # with this status, and the connection ends: what is behind it is not looked at
    ("chunks and a length", in_chunks(b"e\r\n" + CHAT + b"\r\n0\r\n\r\n", "chunked", "Content-Length: 4"), 400),
    ("a length and chunks", of_length("Transfer-Encoding: chunked"), 400),
    ("one length twice", of_length(f"Content-Length: {len(CHAT)}"), 400),
    *(
        (f"the length {length!r}", post(f"Content-Length: {length}"), 400)
        for length in ("14, 14", "+14", "-14", "0xe", "1_4", "14.0", "\xb2", "\xa014", "\x0b14", "", "9" * 5000)
    ),
    ("a length of 2^64", post(f"Content-Length: {2**64}"), 413),
    *(
        (f"the coding {coding!r}", in_chunks(coding=coding), 400)
        for coding in ("chunked, identity", "chunked, chunked", "identity", "identity, chunked", "gzip, chunked",
                       "xchunked", "\x0bchunked", "\xa0chunked",
                       "", '"chunked"', "chunked;q=1", "chunked, gzip")
    ),
    ("chunks twice", in_chunks(b"", "chunked", "Transfer-Encoding: chunked"), 400),
    ("chunks in HTTP/1.0", in_chunks().replace(b"HTTP/1.1", b"HTTP/1.0", 1), 400),
    *(
        (f"the chunk {chunk!r}"[:40], in_chunks(chunk), 400)
        for chunk in (b"0xe\r\n", b"e \r\n", b"-1\r\n", b"\r\n", b"e\n" + CHAT + b"\n0\n\n",
                      b"e\r\n" + CHAT + b"XX0\r\n", b"e;a\n0\r\n", b"e;a\rb\r\n", b"e;a\0b\r\n", b"e;" + b"a" * 20_000,
                      b"e\r\n" + CHAT + b"\r\n0\r\nContent-Length: 1\r\n\r\n")
    ),
    ("endless trailers", in_chunks(b"e\r\n" + CHAT + b"\r\n0\r\n" + b"A: b\r\n" * 200_000), 431),
    ("a folded header", of_length("X-A: a\r\n b"), 400),
    ("a folded coding", of_length("Transfer-Encoding:\r\n chunked"), 400),
    ("a CR in a value", of_length("X-A: a\rX-B: b"), 400),
    ("an LF in a value", of_length("X-A: a\nX-B: b"), 400),
    ("a NUL in a value", of_length("X-Request-Id: a\0b"), 400),
    ("lines that end with LF", of_length().replace(b"\r\n", b"\n"), 400),
    ("two Hosts", of_length("Host: evil.example"), 400),
    ("an address that is none", of_length(path="evil.example:80"), 400),
    ("two blanks", of_length(line="POST  /v1/completions HTTP/1.1"), 400),
    ("a blank in the address", of_length(line="POST /v1/ completions HTTP/1.1"), 400),
    ("HTTP/0.9", b"GET /livez\r\n\r\n", 400),
    ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ("CONNECT", post(line="CONNECT evil.example:443 HTTP/1.1", body=b""), 404),
    ("it expects something else", of_length("Expect: the moon"), 417),
]  # fmt: skip


def statuses(connection: socket.socket, count: int | None) -> list[int]:
    """Of the answers on a connection: so many, or all until it ends."""
    data, connection_ends = b"", count is None
    connection.settimeout(SECONDS)
    while connection_ends or len(found(data)) < (count or 0):
        try:
            piece = connection.recv(65536)
        except ConnectionResetError:
            break
        if not piece:
            break
        data += piece
    return found(data)


def found(data: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] ([0-9]{3}) ", data)]


def exchanged(service: Service, request: bytes, count: int | None) -> tuple[list[int], int]:
    """The statuses a client gets, and how many requests reach the engine."""
    before = len(journal(service, "request"))
    with service.connect() as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may be answered before it is sent
            connection.sendall(request)
        return statuses(connection, count), len(journal(service, "request")) - before


@pytest.mark.parametrize(("name", "request_", "wanted", "reached"), SERVED, ids=[row[0] for row in SERVED])
@pytest.mark.gunicorn
def test_a_connection_carries_on_after(ways: Ways, name: str, request_: bytes, wanted: list[int], reached: int):
    assert exchanged(ways.service("socket"), request_, len(wanted)) == (wanted, reached)


@pytest.mark.parametrize(("name", "request_", "status"), REFUSED, ids=[row[0] for row in REFUSED])
@pytest.mark.gunicorn
def test_a_connection_ends_with(ways: Ways, name: str, request_: bytes, status: int):
    assert exchanged(ways.service("socket"), request_, None) == ([status], 0)


@pytest.mark.parametrize(
    ("name", "request_", "wanted", "reached"),
    [
        ("refused by its length", post(f"Content-Length: {2**40}", "Expect: 100-continue", body=b""), [413], 0),
        (
            "refused by its method",
            post("Content-Length: 9", "Expect: 100-continue", line=GET, body=b"")[: -len(LIVE)],
            [200],
            0,
        ),
        ("close among others", of_length("Connection: x, close"), [200], 1),
        ("close in a second header", of_length("Connection: keep-alive", "Connection: close"), [200], 1),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.gunicorn
def test_a_connection_ends_after(ways: Ways, name: str, request_: bytes, wanted: list[int], reached: int):
    """And no client is told to go on with a body that nobody wants."""
    assert exchanged(ways.service("socket"), request_, None) == (wanted, reached)


# --- header hygiene -------------------------------------------------------------------------------------

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ALWAYS = {"host", "authorization", "content-type", "content-length", "traceparent", "x-request-id"}
SENT = [  # headers of a request, and which of them the engine gets
    ("those it may know", ["Accept: x/y", f"Traceparent: {TRACE}", "Tracestate: a=b", "X-Request-Id: r-1"],
     {"accept": "x/y", "traceparent": TRACE, "tracestate": "a=b", "x-request-id": "r-1"}),
    ("secrets", ["Cookie: a=b", "X-Api-Key: secret-1", "Authorization: Bearer secret-2", "Proxy-Authorization: x"], {}),
    ("where it came from", ["X-Forwarded-For: 1.2.3.4", "Forwarded: for=a", "Via: 1.1 a", "X-Real-Ip: 1.2.3.4"], {}),
    ("hop by hop", ["Connection: close", "Keep-Alive: timeout=5", "TE: trailers", "Trailer: A", "Upgrade: h2c",
                    "Proxy-Connection: close", "Expect: 100-continue"], {}),
    ("named by Connection", ["Connection: x-a, ACCEPT", "Connection: Tracestate", "Accept: x/y", "X-A: 1",
                             f"Traceparent: {TRACE}", "Tracestate: a=b"], {"traceparent": TRACE}),
    ("a coding, of the body or asked for", ["Accept-Encoding: gzip", "Content-Encoding: identity", "Range: bytes=1-"],
     {}),
    ("a trace that is none", ["Traceparent: 00-1-2-03", "Tracestate: a=b"], {}),
    ("a trace of noughts", [f"Traceparent: 00-{'0' * 32}-b7ad6b7169203331-01"], {}),
    ("what makes it generate for nobody", ["X-Conversation-Id: a"], {}),
]  # fmt: skip


@pytest.mark.parametrize("way", ["socket", "HTTP/1.0", "werkzeug"])
@pytest.mark.parametrize(("name", "sent", "passed"), SENT, ids=[row[0] for row in SENT])
def test_the_engine_is_told(ways: Ways, way: str, name: str, sent: list[str], passed: dict[str, str]):
    got = ways.ask(way, OK, headers=sent)
    assert (got.status, got.body) == (200, b"ok")
    lines = got.seen.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    told = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    assert len(told) == len(lines), "none twice"
    assert told.keys() - passed.keys() == ALWAYS - passed.keys()
    assert passed.items() <= told.items()
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", told["traceparent"])
    assert "secret" not in got.seen.decode()
    assert got.header("x-request-id") == told["x-request-id"]


ANSWERED = [  # headers of an answer, and which of them the client gets
    ("end to end", ["ETag: a", "Cache-Control: no-cache", "X-Own: \xe9"], ["ETag: a", "Cache-Control: no-cache",
     "X-Own: \xe9"]),
    ("twice", ["Link: a", "Link: b"], ["Link: a", "Link: b"]),
    ("hop by hop", ["Keep-Alive: timeout=5", "Proxy-Connection: a", "TE: a", "Trailer: a", "Upgrade: h2c",
                    "Proxy-Authenticate: Basic"], []),
    ("named by Connection", ["Connection: X-A, etag", "X-A: 1", "ETag: a", "Connection: X-B", "X-B: 2", "X-C: 3"],
     ["X-C: 3"]),
    ("not the engine's to say", ["Set-Cookie: a=b", "Location: http://169.254.169.254/", "Server: a",
                                 "Access-Control-Allow-Origin: *", "X-Request-Id: a", "X-Llama-Smart-Proxy-Error: 1"],
     []),
    ("no header's value", ["X-A: a\x01b", "X-B: \x7f"], []),
]  # fmt: skip
OURS = {"server", "date", "connection", "content-length", "x-request-id"}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("name", "sent", "passed"), ANSWERED, ids=[row[0] for row in ANSWERED])
def test_the_client_is_told(ways: Ways, way: str, name: str, sent: list[str], passed: list[str]):
    got = ways.ask(way, counted(b"ok", *sent), headers=["X-Request-Id: r-1"])
    assert (got.status, got.body, got.header("x-request-id")) == (200, b"ok", "r-1")
    told = [(name, value) for name, value in got.headers if name not in OURS and not name.startswith("x-llama-smart")]
    assert told == [(name.lower(), value) for name, _, value in (line.partition(": ") for line in passed)]
    assert got.header("x-llama-smart-proxy-error") is None


# --- engines --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """What an engine sends, and what the client then gets: a body, a refusal, an error event, or a cut."""

    name: str
    sent: bytes
    then: str = ""
    parts: tuple[int, ...] = ()
    status: int = 200
    body: bytes | None = None  # just this
    code: str | None = None  # the error's, as the answer or as the last event
    is_cut: bool = False  # the connection ends before the answer does
    method: str = "POST"
    ways: tuple[str, ...] = field(default=WAYS)


def bad(name: str, sent: bytes, then: str = "") -> Row:
    return Row(name, sent, then, status=502, code="bad_upstream")


def ends(name: str, sent: bytes, code: str, then: str = "close") -> Row:
    """A stream: its head goes out, then what comes behind it; the client hears of its end."""
    return Row(name, EVENTS + sent, then, (len(EVENTS), len(EVENTS) + 8), code=code)


EVENTS = head(f"Content-Type: {SSE}", "Transfer-Encoding: chunked")
CHUNKS = head("Transfer-Encoding: chunked")
ROWS = [
    # right
    Row("another answer before it", head("Link: a", status="103 Early Hints") + OK, body=b"ok"),
    Row("many before it", head(status="100 Continue") * 100 + OK, body=b"ok"),
    Row("nothing", head(status="204 No Content"), status=204, body=b""),
    Row("nothing, with a length and a body", counted(b"bad", status="204 No Content"), status=204, body=b""),
    Row("not modified, with a body behind", counted(b"bad", status="304 Not Modified"), parts=(-3,), status=304,
        body=b""),
    Row("HEAD", head("Content-Length: 5"), method="HEAD", body=b""),
    Row("HEAD with a body", counted(b"bad"), method="HEAD", body=b""),
    Row("HEAD with a body behind", counted(b"bad"), parts=(-3,), method="HEAD", body=b""),
    Row("a redirection is not followed", counted(b"", "Location: http://127.0.0.1:1/", status="302 x"), status=302,
        body=b""),
    Row("a page of an error", counted(b"<p>", status="503 x"), status=503, body=b"<p>"),
    Row("a number that is no status yet", counted(b"", status="999 x"), status=999, body=b""),
    Row("a length that Connection names", counted(b"ok", "Connection: content-length"), body=b"ok"),
    Row("no length", head() + b"ok", then="close", body=b"ok"),
    # refused, with nothing of it sent
    bad("no HTTP", b"\x16\x03\x01\0\r\n\r\n"),
    bad("another protocol", head("Upgrade: a", "Connection: upgrade", status="101 x")),
    bad("HTTP/2", b"HTTP/2 200\r\n\r\n"),
    bad("two lengths", head("Content-Length: 2", "Content-Length: 3") + b"ok"),
    bad("a length twice", head("Content-Length: 2", "Content-Length: 2") + b"ok"),
    *(bad(f"the length {n!r}", head(f"Content-Length: {n}") + b"ok") for n in ("2, 2", "+2", "0x2", "", "2.0", "\xb2")),
    bad("a length and chunks", head("Content-Length: 2", "Transfer-Encoding: chunked") + b"2\r\nok\r\n0\r\n\r\n"),
    *(
        bad(f"the coding {coding!r}", head(f"Transfer-Encoding: {coding}") + b"2\r\nok\r\n0\r\n\r\n")
        for coding in ("chunked, identity", "gzip, chunked", "identity", "\x0bchunked", "chunked;a", "")
    ),
    bad("chunks in HTTP/1.0", head("Transfer-Encoding: chunked", version="1.0") + b"2\r\nok\r\n0\r\n\r\n"),
    bad("a folded header", head("X-A: a\r\n b", "Content-Length: 2") + b"ok"),
    bad("a NUL in a header", head("X-A: a\0b", "Content-Length: 2") + b"ok"),
    bad("a blank before the colon", head("X-A : a", "Content-Length: 2") + b"ok"),
    bad("lines that end with LF", OK.replace(b"\r\n", b"\n"), "hold"),
    bad("an endless head", head("X-A: " + "a" * 300_000), "hold"),
    bad("a hundred thousand headers", head(*["A: b"] * 100_000), "hold"),
    bad("half a head", b"HTTP/1.1 200 OK\r\nContent-Le", "close"),
    bad("it never begins", head(status="100 Continue") * 4000 + OK),
    bad("two answers", OK + OK),
    Row("half a small body", head("Content-Length: 900") + b"{", "close", status=502, code="bad_upstream"),
    Row("reset in a small body", head("Content-Length: 900") + b"{", "reset", status=502, code="bad_upstream"),
    Row("half a small stream", head(f"Content-Type: {SSE}", "Content-Length: 900") + b"data: 1\n\n", "close",
        status=502, code="bad_upstream"),
    Row("no byte", b"", "close", status=502, code="bad_upstream"),
    Row("reset at once", b"", "reset", status=502, code="bad_upstream"),
    Row("silence", b"", "hold", status=504, code="upstream_timeout", ways=("socket",)),
    Row("silence in a small body", head("Content-Length: 900") + b"{", "hold", status=504, code="upstream_timeout",
        ways=("socket",)),
    # cut, and the client can tell
    Row("half a large body", head("Content-Length: 99999") + b"x" * 70_000, "close", is_cut=True),
    Row("a large body that pauses", head("Content-Length: 99999") + b"x" * 70_000, "hold", is_cut=True,
        ways=("socket", "gunicorn")),
    Row("half a large stream", head(f"Content-Type: {SSE}", "Content-Length: 99999") + b"data: 1\n\n", "close",
        is_cut=True),
    Row("half of its chunks", CHUNKS + b"2\r\nok\r\n", "close", is_cut=True),
    Row("half a chunk", CHUNKS + b"5\r\nok", "close", (len(CHUNKS) + 3,), is_cut=True),
    Row("reset in its chunks", CHUNKS + b"2\r\nok\r\n", "reset", (len(CHUNKS), len(CHUNKS) + 7), is_cut=True),
    Row("a bad chunk", CHUNKS + b"2\r\nok\r\nzz\r\n", "", (len(CHUNKS), len(CHUNKS) + 7), is_cut=True),
    Row("endless trailers", CHUNKS + b"2\r\nok\r\n0\r\n" + b"A: b\r\n" * 9000, "hold",
        (len(CHUNKS), len(CHUNKS) + 7), is_cut=True),
    # a stream says it in an event
    ends("a chunk of 2^59", b"800000000000000\r\nok", "bad_upstream"),
    ends("an end without an end", b"3\r\nok\n\r\n", "bad_upstream"),
    ends("half a size", b"3\r\nok\n\r\n5", "bad_upstream"),
    ends("half an event", b"3\r\nok\n\r\n9\r\ndata", "bad_upstream"),
    ends("half a line end", b"3\r\nok\n\r\n2\r\nok\r", "bad_upstream"),
    ends("a pause", b"3\r\nok\n\r\n9\r\ndata", "upstream_timeout", "hold"),
    *(
        ends(f"the chunk {chunk!r}"[:40], b"3\r\nok\n\r\n" + chunk, "bad_upstream", "hold")
        for chunk in (b"zz\r\n", b"-1\r\n", b"0x2\r\n", b"\r\n", b"2\nok\n", b"2\r\nokX\r\n", b"8000000000000000\r\n",
                      b"2;" + b"a" * 9000, b"2\r\nok\r\n2\r\nokX\r\n", b"2\r\nok\r\n5\r\nokayXX", b"0\r\nA: b\n\r\n",
                      b"0\r\n" + b"A: b\r\n" * 9000)
    ),
    ends("bytes behind the last chunk", b"3\r\nok\n\r\n0\r\n\r\nmore", "bad_upstream", "hold"),
]  # fmt: skip


CASES = [
    pytest.param(row, way, id=f"{row.name}-{way}", marks=[pytest.mark.gunicorn] if way == "socket" else [])
    for row in ROWS
    for way in row.ways
]


@pytest.mark.parametrize(("row", "way"), CASES)
def test_an_engine_that_sends(ways: Ways, row: Row, way: str):
    got = ways.ask(way, row.sent, then=row.then, parts=row.parts, method=row.method)
    assert (got.status, got.is_whole) == (row.status, not row.is_cut)
    if row.body is not None:
        assert got.body == row.body
    if row.code is not None:
        assert error_code(got) == row.code
    again = ways.ask(way, OK)
    assert (again.status, again.body) == (200, b"ok"), "and the next request gets its own answer"


def error_code(got: Got) -> object:
    """Of an answer that is an error, or of a stream's last event."""
    text = got.body if got.status != 200 else [line for line in got.body.splitlines() if line][-1]
    return json.loads(text.removeprefix(b"data: "))["error"]["code"]


@pytest.mark.gunicorn
@pytest.mark.parametrize(("sent", "says"), [(b"{}", b"keep-alive"), (b"{", b"close"), (b"", b"close")])
def test_an_answer_says_close_if_the_rest_of_its_body_is_not_waited_for(ways: Ways, sent: bytes, says: bytes):
    """It said keep-alive and closed: the next request on the connection was lost."""
    with ways.service("socket").connect() as connection:
        connection.sendall(b"DELETE /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n" + sent)
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 405") and b"\r\nConnection: %s\r\n" % says in answer


# --- connections to engines that are kept ---------------------------------------------------------------

STALE = [  # on a connection that has carried a request: how often the engine hears it, and what the client gets
    ("POST", "close", 1, 502),
    ("POST", "reset", 1, 502),
    ("GET", "close", 2, 502),
    ("GET", "reset", 2, 502),
    ("HEAD", "close", 2, 502),
]


def connected(service: Service) -> int:
    """Connections to the engine that are open at both ends."""
    port = service.servers()[0]["port"]
    connections = service.worker.net_connections("tcp4")
    return sum(each.status == "ESTABLISHED" and each.raddr.port == port for each in connections)


def use_up_connections(ways: Ways) -> None:
    """Until none is kept."""
    service, deadline = ways.service("socket"), time.monotonic() + SECONDS
    while connected(service):
        assert time.monotonic() < deadline
        ways.ask("socket", OK, then="close")


@pytest.mark.parametrize(("method", "then", "heard", "status"), STALE)
@pytest.mark.gunicorn
def test_a_request_is_repeated_only_where_it_may_be(ways: Ways, method: str, then: str, heard: int, status: int):
    """Once, and on a new connection; where that gives no byte either, no more."""
    service = ways.service("socket")
    with ways.send("socket", OK)[0] as connection:  # one that a client leaves on is not kept
        assert read(connection).body == b"ok"
        wait_for(lambda: service.servers()[0]["requests"] == 0, 10)
    before = len(journal(service, "said"))
    assert ways.ask("socket", b"", method, then=then).status == status
    assert len(journal(service, "said")) - before == heard
    use_up_connections(ways)
    before = len(journal(service, "said"))
    assert ways.ask("socket", b"", method, then=then).status == status
    assert len(journal(service, "said")) - before == 1


@pytest.mark.gunicorn
def test_a_connection_that_the_engine_closed_is_not_used(ways: Ways):
    service = ways.service("socket")
    use_up_connections(ways)
    for then in ("close", "reset"):
        assert ways.ask("socket", OK, then=then).body == b"ok"
        wait_for(lambda: not connected(service), 5)
        before = len(journal(service, "said"))
        assert ways.ask("socket", OK).body == b"ok"
        assert len(journal(service, "said")) - before == 1
