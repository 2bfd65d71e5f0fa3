"""The data path against a scripted server, by both of its ways: to the client's socket, and in pieces."""

from __future__ import annotations

import contextlib
import json
import random
import select
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import h11
import pytest

from app.errors import (
    BadUpstream,
    ClientDisconnected,
    EngineGone,
    ErrorForm,
    ProxyError,
    UpstreamCrashed,
    UpstreamTimeout,
)
from app.ports import Address, BodyFile, UpstreamRequest
from tests.relay.test_body import chunked
from workers.clients.client_watch import ClientWatch
from workers.relay.body import BadFraming, Chunked, SocketSink
from workers.relay.connections import UpstreamConnection
from workers.relay.relay import Relay
from workers.relay.stream_mover import StreamMover

pytestmark = pytest.mark.integration

SECONDS = 10.0
Script = Callable[[socket.socket], None]  # what the server does with one connection, its request read


class Server:
    """Runs one script after another, each on the next request, wherever that comes. Answers /health if `is_alive`."""

    def __init__(self, *scripts: Script, is_alive: bool = False) -> None:
        self.is_alive = is_alive
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.scripts = list(scripts)
        self.requests: list[bytes] = []
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while not (self.scripts and self.scripts[0] is closes_unread):
                request = _read_request(connection)
                if b" /health " in request and self.is_alive:
                    connection.sendall(counted(b"{}"))
                elif request and b" /health " not in request and self.scripts:
                    self.requests.append(request)
                    self.scripts.pop(0)(connection)
                else:
                    return
            self.scripts.pop(0)(connection)


def _read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return b""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length")), 0)
    whole = bytearray(body)
    while len(whole) < length:
        whole += connection.recv(65536)
    return head + b"\r\n\r\n" + whole


def says(*pieces: bytes, then_close: bool = False, pause: float = 0.0) -> Script:
    def script(connection: socket.socket) -> None:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)
        if then_close:
            connection.shutdown(socket.SHUT_RDWR)

    return script


def closes_unread(connection: socket.socket) -> None:
    """Close the connection once a request has arrived, without reading it, as cpp-httplib closes connections."""
    select.select([connection], [], [], SECONDS)
    connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def head(*headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", *headers, "", "")).encode("latin-1")


def counted(body: bytes) -> bytes:
    return head("Content-Type: application/json", f"Content-Length: {len(body)}") + body


STREAM = head("Content-Type: text/event-stream", "Transfer-Encoding: chunked")


class Client:
    """The client's socket, as the worker lends it; what it receives is read by a thread."""

    def __init__(self, reads: bool = True) -> None:
        self.socket, self.other = socket.socketpair()
        OPEN.callback(self.other.close)
        OPEN.callback(self.socket.close)
        self.got = b""
        self.is_whole = False
        self.is_chunked = False
        self.has_head = False
        self.reader = threading.Thread(target=self._read, daemon=True)
        if reads:
            self.reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while piece := self.other.recv(65536):
                self.got += piece

    def takes(self, length: int | None) -> bool:
        self.is_chunked = length is None
        return True

    def head(self) -> bytes:
        had_head, self.has_head = self.has_head, True
        return b"" if had_head else b"HEAD\r\n\r\n"

    def mark_sent(self) -> None:
        self.is_whole = True

    def all(self) -> bytes:
        self.socket.close()
        self.reader.join(SECONDS)
        got = self.got.removeprefix(b"HEAD\r\n\r\n")
        return Chunked().payload(got) if self.is_chunked else got


OPEN = contextlib.ExitStack()


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    OPEN.close()


@pytest.fixture(scope="module")
def mover() -> StreamMover:
    made = StreamMover(stall_seconds=1.5, send_seconds=1.5)
    made.start()
    return made


class Case:
    """One relay, and a server for it. `has_ended`: what the pool says of the server's process, if that is silent."""

    def __init__(self, mover: StreamMover, *scripts: Script, has_ended: bool = True, is_alive: bool = False) -> None:
        self.server = Server(*scripts, is_alive=is_alive)
        self.relay = Relay(1.5, 1.5, mover, lambda: False, lambda server: has_ended, lambda server: None)
        OPEN.callback(self.relay.close)
        OPEN.callback(self.server.listener.close)
        self.watch = ClientWatch(None, -1)

    def send(self, method: str = "POST", body: bytes | BodyFile = b"{}") -> Any:
        request = UpstreamRequest(method, "/v1/x", {}, body)
        return self.relay.send(Address(1, "m", self.server.port, "key"), request, self.watch)


def no_wsgi(piece: bytes) -> None:
    raise AssertionError("not by the client's socket")


def received(case: Case, way: str, **request: Any) -> tuple[bytes, bool]:
    """The answer's payload, and whether it was whole, by one of the two ways."""
    try:
        answer = case.send(**request)
    except BadUpstream as problem:  # none of it had been sent: the error is the whole answer
        return problem.event, False
    try:
        if way == "pieces":
            pieces: list[bytes] = []
            whole = answer.copy_body(pieces.append, None)
            return b"".join(pieces), whole
        client = Client()
        whole = answer.copy_body(no_wsgi, client)
        assert client.is_whole
        return client.all(), whole
    finally:
        answer.close()


both = pytest.mark.parametrize("way", ["socket", "pieces"])


def corpus() -> Iterator[tuple[str, bytes, bytes]]:
    """Answers: what is sent, and the payload."""
    chance = random.Random(7)
    events = [b"data: " + json.dumps({"n": n}).encode() + b"\n\n" for n in range(50)]
    large = chance.randbytes(300_000)
    yield "empty", counted(b""), b""
    yield "json", counted(b'{"a": 1}'), b'{"a": 1}'
    yield "300 KB", counted(large), large
    yield "5 MB in chunks", STREAM + chunked(*[large] * 17), large * 17
    yield "events", STREAM + chunked(*events), b"".join(events)
    yield "compressed", head("Content-Encoding: gzip", "Content-Length: 4") + b"\x1f\x8b\0\r", b"\x1f\x8b\0\r"


@both
@pytest.mark.parametrize(("name", "sent", "payload"), [pytest.param(*each, id=each[0]) for each in corpus()])
@pytest.mark.parametrize("size", [None, 7000])
def test_bodies_arrive_byte_for_byte(
    mover: StreamMover, way: str, name: str, sent: bytes, payload: bytes, size: int | None
):
    pieces = [sent] if size is None else [sent[at : at + size] for at in range(0, len(sent), size)]
    case = Case(mover, says(*pieces))
    assert received(case, way) == (payload, True)


def test_a_body_in_a_file_arrives_whole(mover: StreamMover):
    case, body = Case(mover, says(counted(b"{}"))), random.Random(3).randbytes(3_000_000)
    with tempfile.TemporaryFile() as file:
        file.write(body)
        file.flush()
        case.send(body=BodyFile(file.fileno(), len(body))).close()
    assert case.server.requests[0].partition(b"\r\n\r\n")[2] == body


@both
def test_a_connection_is_kept_for_the_next_request(mover: StreamMover, way: str):
    case = Case(mover, *[says(counted(b"%d" % n)) for n in range(3)])
    assert [received(case, way)[0] for _ in range(3)] == [b"0", b"1", b"2"]
    assert case.server.connections == 1


@both
@pytest.mark.parametrize(
    "stream",
    [
        STREAM + chunked(b"1"),
        head("Content-Type: application/json", "Transfer-Encoding: chunked") + chunked(b"1"),
        head("Content-Type: text/event-stream", "Content-Length: 1") + b"1",
    ],
    ids=["events in chunks", "JSON in chunks", "events of a length"],
)
def test_a_connection_that_carried_a_stream_carries_nothing_else(mover: StreamMover, way: str, stream: bytes):
    """llama-server closes it within 5 ms although it announced keep-alive: 1 to 7 % of the requests on it were 502."""
    case = Case(mover, says(stream), says(counted(b"2")))
    assert [received(case, way)[0] for _ in range(2)] == [b"1", b"2"]
    assert case.server.connections == 2


@both
def test_an_answer_without_length_ends_with_its_connection(mover: StreamMover, way: str):
    case = Case(mover, says(head(), b"abc", then_close=True), says(counted(b"")))
    assert received(case, "pieces") == (b"abc", True)
    received(case, way)
    assert case.server.connections == 2


@pytest.mark.parametrize(("method", "status"), [("GET", "200 OK"), ("DELETE", "200 OK"), ("POST", "400 Bad Request")])
def test_a_connection_whose_server_may_not_have_read_the_request_is_not_kept(
    mover: StreamMover, method: str, status: str
):
    """What is left of a GET's body would be taken for the beginning of another request."""
    case = Case(mover, says(head("Content-Length: 1", status=status) + b"1"), says(counted(b"2")))
    assert received(case, "socket", method=method)[0] == b"1"
    assert received(case, "socket")[0] == b"2"
    assert case.server.connections == 2


def test_a_kept_connection_that_was_closed_meanwhile_is_not_used(mover: StreamMover):
    case = Case(mover, says(counted(b"1"), then_close=True), says(counted(b"2")))
    assert received(case, "socket")[0] == b"1"
    time.sleep(0.05)
    assert received(case, "socket")[0] == b"2"
    assert len(case.server.requests) == 2


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


END = says(then_close=True)


@pytest.mark.parametrize("end", [END, reset], ids=["end", "reset"])
def test_a_request_that_may_be_running_is_never_sent_twice(mover: StreamMover, end: Script):
    """A kept connection, closed without a byte after the request was read."""
    case = Case(mover, says(counted(b"1")), end, says(counted(b"3")))
    received(case, "socket")
    with pytest.raises(UpstreamCrashed):
        case.send()
    assert len(case.server.requests) == 2


@pytest.mark.parametrize(("script", "error"), [(closes_unread, EngineGone), (END, UpstreamCrashed)])
def test_a_request_is_the_crashs_only_if_the_server_had_read_it(
    mover: StreamMover, script: Script, error: type[ProxyError]
):
    """Another server can answer what a killed one has not read."""
    with pytest.raises(UpstreamCrashed) as caught:
        Case(mover, script).send()
    assert caught.type is error


def test_a_get_that_had_no_answer_is_sent_once_more(mover: StreamMover):
    case = Case(mover, says(counted(b"1")), END, says(counted(b"3")))
    received(case, "socket")
    assert received(case, "socket", method="GET", body=b"") == (b"3", True)


@pytest.mark.parametrize("size", [2, 10_000_000])
def test_a_request_that_its_server_did_not_read_is_sent_once_more(mover: StreamMover, size: int):
    """The server closes a kept connection while the request is on its way: nothing failed."""
    case = Case(mover, says(counted(b"1")), closes_unread, says(counted(b"2")))
    received(case, "socket")
    assert received(case, "socket", body=b"x" * size) == (b"2", True)
    assert [len(request.partition(b"\r\n\r\n")[2]) for request in case.server.requests] == [2, size]


def test_a_request_on_a_connection_whose_end_was_overlooked_is_sent_once_more(
    mover: StreamMover, monkeypatch: pytest.MonkeyPatch
):
    """The end arrives after the look at it, and before the request."""
    case = Case(mover, says(counted(b"1"), then_close=True), says(counted(b"2")))
    received(case, "socket")
    time.sleep(0.05)
    monkeypatch.setattr(UpstreamConnection, "has_input", lambda connection: False)
    assert received(case, "socket") == (b"2", True)
    assert len(case.server.requests) == 2


def test_a_request_on_a_new_connection_is_sent_once(mover: StreamMover):
    """No connection that was kept is to blame."""
    case = Case(mover, says(counted(b"1")), closes_unread, closes_unread, says(counted(b"2")))
    received(case, "socket")
    with pytest.raises(UpstreamCrashed):
        case.send()
    assert len(case.server.scripts) == 1
    case.server.scripts.insert(0, closes_unread)
    with pytest.raises(UpstreamCrashed):
        case.send()
    assert len(case.server.scripts) == 1


def test_a_get_on_a_kept_connection_that_gives_no_byte_is_asked_again_once(mover: StreamMover):
    case = Case(mover, says(counted(b"1")), says(then_close=True), says(counted(b"3")))
    received(case, "socket")
    assert received(case, "socket", method="GET", body=b"") == (b"3", True)
    assert len(case.server.requests) == 3


def test_informational_answers_are_skipped(mover: StreamMover):
    sent = head(status="100 Continue") + head("Link: x", status="103 Early Hints") + counted(b"1")
    assert received(Case(mover, says(sent)), "socket") == (b"1", True)


@pytest.mark.parametrize(
    "sent",
    [
        *(b"SSH-2.0-x\r\n\r\n", b"HTTP/2 200\r\n\r\n", b"HTTP/1.1 20\r\n\r\n", head(status="101 Switching")),
        *(head("Content-Length: 1", "Content-Length: 2"), head("Content-Length: -1"), head("Content-Length: 1x")),
        *(head("Content-Length: 5", "Transfer-Encoding: chunked"), head("Transfer-Encoding: gzip, chunked")),
        *(head("Bad Name: x"), head("X: a\nb"), head(" folded"), head("X: " + "y" * 140_000)),
        *(head("Content-Length: 1", "Content-Length: 1") + b"1", head("Transfer-Encoding: \x0bchunked")),
        head("Transfer-Encoding: chunked").replace(b"/1.1", b"/1.0"),
        head(status="100 Continue") * 4000 + counted(b"1"),
    ],
)
def test_an_answer_that_is_not_http_is_bad_upstream(mover: StreamMover, sent: bytes):
    with pytest.raises(BadUpstream):
        Case(mover, says(sent, then_close=True)).send()


@pytest.mark.parametrize("end", [END, reset], ids=["end", "reset"])
@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 20", head("Content-Length: 5") + b"ab"])
@pytest.mark.parametrize(
    ("process", "error"),
    [
        ({"has_ended": True}, UpstreamCrashed),
        ({"has_ended": False}, BadUpstream),
        ({"has_ended": True, "is_alive": True}, BadUpstream),  # it need not be waited for
    ],
)
def test_an_answer_that_is_cut_is_a_crash_only_if_the_process_ended(
    mover: StreamMover, sent: bytes, end: Script, process: dict[str, bool], error: type[ProxyError]
):
    case = Case(mover, lambda connection: (says(sent)(connection), end(connection))[-1], **process)
    with pytest.raises(error):
        case.send()
    assert len(case.server.requests) == 1


def test_a_server_that_accepts_no_connection_has_crashed_only_if_its_process_ended(mover: StreamMover):
    for has_ended, error in ((True, EngineGone), (False, BadUpstream)):
        case = Case(mover, has_ended=has_ended)
        case.server.listener.shutdown(socket.SHUT_RDWR)  # its thread would accept one more
        with pytest.raises(error):
            case.send()


def test_a_late_answer_is_a_timeout(mover: StreamMover):
    with pytest.raises(UpstreamTimeout):
        Case(mover, says(b"", pause=3.0)).send()


def test_a_head_that_cannot_end_is_not_waited_for(mover: StreamMover):
    case = Case(mover, says(b"HTTP/1.1 200 OK\nContent-Length: 1\n\n1", pause=4.0))
    with pytest.raises(BadUpstream):
        case.send()


@pytest.mark.parametrize(("method", "status"), [("HEAD", "200 OK"), ("POST", "204 No Content"), ("POST", "304 x")])
def test_a_body_where_none_may_be_is_nobodys_answer(mover: StreamMover, method: str, status: str):
    """It came after the answer was over, on a connection that was kept: the next request's answer began with it."""
    sent = head("Content-Length: 3", status=status)
    case = Case(mover, says(sent + b"bad"), says(counted(b"2")), says(sent, b"bad", pause=0.05), says(counted(b"2")))
    for _ in range(2):
        assert received(case, "pieces", method=method) == (b"", True)
        assert received(case, "pieces") == (b"2", True)


@both
def test_events_of_an_announced_length_that_are_cut_end_the_connection(mover: StreamMover, way: str):
    """An error event would be a part of those bytes, and the connection be kept with some of them owed."""
    sent = head("Content-Type: text/event-stream", "Content-Length: 100000") + b"data: 1\n\n"
    with pytest.raises(ConnectionResetError):
        received(Case(mover, says(sent, then_close=True)), way)


@both
@pytest.mark.parametrize(
    ("cut", "code"),
    [
        (b"a\r\ndata: hi\n\n\r\n", "upstream_crashed"),  # between events
        (b"20\r\ndata: {", "upstream_crashed"),  # in the middle of a chunk
        (b"2", "upstream_crashed"),  # in its size
        (b"3\r\nabc\r", "upstream_crashed"),
        (b"zz\r\n", "bad_upstream"),
        (b"5\r\nhello\r\n5\r\nworldXX", "bad_upstream"),  # longer than its size
    ],
)
@pytest.mark.parametrize("is_alive", [True, False])
def test_a_stream_that_is_cut_ends_with_an_error_event(
    mover: StreamMover, way: str, cut: bytes, code: str, is_alive: bool
):
    case = Case(mover, says(STREAM, cut, then_close=True, pause=0.02), is_alive=is_alive)
    got, whole = received(case, way)
    assert not whole
    *_, last = [line for line in got.splitlines() if line]
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == ("bad_upstream" if is_alive else code)


@both
def test_a_stream_that_pauses_for_too_long_ends_with_an_error_event(mover: StreamMover, way: str):
    got, whole = received(Case(mover, says(STREAM, b"3\r\nabc\r\n", pause=4.0)), way)
    assert not whole and b'"code": "upstream_timeout"' in got


@both
def test_a_body_of_its_own_format_that_is_cut_ends_the_connection(mover: StreamMover, way: str):
    sent = head("Content-Length: 100000") + b"x" * 70_000
    with pytest.raises(ConnectionResetError):
        received(Case(mover, says(sent, then_close=True)), way)


@pytest.mark.parametrize(
    ("sent", "error"), [(head("Content-Length: 5") + b"ab", UpstreamCrashed), (counted(b"ab") + b"c", BadUpstream)]
)
def test_a_small_answer_that_is_cut_or_too_long_is_an_error_of_its_own(
    mover: StreamMover, sent: bytes, error: type[ProxyError]
):
    with pytest.raises(error):
        Case(mover, says(sent, then_close=True)).send()


def test_a_disconnect_shuts_the_servers_connection_at_once(mover: StreamMover):
    shut_at: list[float] = []

    def endless(connection: socket.socket) -> None:
        connection.sendall(STREAM + b"3\r\nabc\r\n")
        connection.recv(1)
        shut_at.append(time.monotonic())

    case = Case(mover, endless)
    answer, client = case.send(), Client()
    disconnected_at: list[float] = []

    def disconnect() -> None:
        disconnected_at.append(time.monotonic())
        case.watch.mark_disconnected()

    threading.Timer(0.2, disconnect).start()
    with pytest.raises(ConnectionResetError):
        answer.copy_body(no_wsgi, client)
    answer.close()
    deadline = time.monotonic() + SECONDS
    while not shut_at:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert shut_at[0] - disconnected_at[0] < 1.0, "before it stalls"


@pytest.mark.parametrize("sent", [b"", head("Content-Length: 5") + b"ab"])
def test_a_disconnect_before_a_head_or_a_small_body_is_no_crash(mover: StreamMover, sent: bytes):
    case = Case(mover, says(sent, pause=3.0))
    threading.Timer(0.1, case.watch.mark_disconnected).start()
    with pytest.raises(ClientDisconnected):
        case.send()


def test_a_client_that_does_not_read_holds_its_server_back_and_is_let_go(mover: StreamMover):
    sent = 0

    def endless(connection: socket.socket) -> None:
        nonlocal sent
        connection.sendall(STREAM)
        piece = chunked(b"x" * 60_000).removesuffix(b"0\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(piece)
                sent += len(piece)

    answer, client = Case(mover, endless).send(), Client(reads=False)
    began = time.monotonic()
    with pytest.raises(ConnectionResetError):
        answer.copy_body(no_wsgi, client)
    answer.close()
    assert 1.0 < time.monotonic() - began < SECONDS
    assert sent < 20 * 1024**2, "what sockets hold, and one read"


def test_a_fault_in_one_stream_ends_that_stream_alone(mover: StreamMover, monkeypatch: pytest.MonkeyPatch):
    def slow(connection: socket.socket) -> None:
        for _ in range(20):
            connection.sendall(b"1\r\nx\r\n")
            time.sleep(0.02)
        connection.sendall(b"0\r\n\r\n")

    good = Case(mover, lambda connection: (connection.sendall(STREAM), slow(connection))[-1])
    answer = good.send()
    client, done = Client(), threading.Event()
    threading.Thread(target=lambda: (answer.copy_body(no_wsgi, client), done.set()), daemon=True).start()
    broken = Case(mover, lambda connection: (connection.sendall(STREAM), time.sleep(0.1), slow(connection))[-1])
    wrong = broken.send()

    def fault(data: bytes) -> bytes:
        raise RuntimeError("a bug")

    monkeypatch.setattr(wrong._reply.body, "payload", fault)
    with pytest.raises(RuntimeError):
        wrong.copy_body(no_wsgi, Client())
    wrong.close()
    assert done.wait(SECONDS)
    assert client.all() == b"x" * 20
    answer.close()


def spoiled(chance: random.Random) -> bytes:
    """A body in chunks, to which something has happened."""
    data = bytearray(chunked(*[chance.randbytes(chance.randint(1, 30)) for _ in range(chance.randint(0, 6))]))
    for _ in range(chance.choice([0, 1, 1, 3])):
        at = chance.randrange(len(data) + 1)
        until = at + chance.choice([0, 1, 3, 1000])
        data[at:until] = chance.choice([b"", b"", b"\r\n", b"\n", b"5\r\n", b"0\r\n\r\n", b"f", chance.randbytes(2)])
    return bytes(data)


def test_whatever_comes_in_chunks_a_client_gets_a_body_in_chunks(seed: int):
    """As h11 reads it: to its end, which is an error event where the engine's is none."""
    chance = random.Random(seed)
    for _ in range(3000):
        body, sink = Chunked(), SocketSink(None, is_chunked=True)  # type: ignore[arg-type]
        data, sent, is_bad = spoiled(chance), b"", False
        while data and not body.is_over and not is_bad:
            size = chance.choice([1, 2, 3, 7, 1000])
            try:
                payload = body.payload(data[:size])
                sent += sink.framed(payload, body.is_over)
            except BadFraming:
                is_bad = True
            data = data[size:]
        if is_bad or not body.is_over:
            sent += sink.framed(b"\n\n" + ErrorForm.OPENAI.event(BadUpstream("spoiled")), is_last=True)
        reader = h11.Connection(h11.CLIENT)
        reader.send(h11.Request(method="GET", target="/", headers=[("Host", "localhost")]))
        reader.send(h11.EndOfMessage())
        reader.receive_data(head("Transfer-Encoding: chunked") + sent)
        while not isinstance(event := reader.next_event(), h11.EndOfMessage):
            assert event is not h11.NEED_DATA, (data, sent)
        assert not reader.trailing_data[0]


def test_many_streams_at_once_arrive_whole(mover: StreamMover):
    events = [b"data: %d\n\n" % n for n in range(40)]

    def trickle(connection: socket.socket) -> None:
        connection.sendall(STREAM)
        for event in events:
            connection.sendall(b"%x\r\n%s\r\n" % (len(event), event))
            time.sleep(0.002)
        connection.sendall(b"0\r\n\r\n")

    case = Case(mover, *[trickle] * 64)
    results: list[tuple[bytes, bool]] = []
    threads = [threading.Thread(target=lambda: results.append(received(case, "socket"))) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert results == [(b"".join(events), True)] * 64
