"""A corpus of answers and requests through the whole service, byte for byte, by every way an answer can take."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.helpers.service import wait_for
from tests.helpers.ways import PROGRAMS, WAYS, Ways, all_ways, read

pytestmark = pytest.mark.integration

MIB = 1024**2
chance = random.Random(7)
JSON = json.dumps({"text": "é \u2028 \0", "n": [1.0, 1e-7]}, ensure_ascii=False).encode()
EVENTS = [b'data: {"n": %d}\n\n' % n for n in range(40)] + [b"data: [DONE]\n\n"]
LARGE = chance.randbytes(300_000)
HUGE = LARGE * 175  # 50 MB
PARTS = b"--b\r\nContent-Type: application/json\r\n\r\n{}\r\n--b\r\n\r\n" + chance.randbytes(1000) + b"\r\n--b--\r\n"
ZIPPED = gzip.compress(JSON * 100)


def head(*headers: str, status: str = "200 OK", version: str = "1.1") -> bytes:
    return "\r\n".join((f"HTTP/{version} {status}", *headers, "", "")).encode("latin-1")


def counted(body: bytes, *headers: str, **line: str) -> bytes:
    return head(*headers, f"Content-Length: {len(body)}", **line) + body


def chunked(pieces: Iterator[bytes], *headers: str, extension: bytes = b"", trailers: bytes = b"") -> bytes:
    chunks = (b"%x%s\r\n%s\r\n" % (len(piece), extension, piece) for piece in pieces)
    return head(*headers, "Transfer-Encoding: chunked") + b"".join((*chunks, b"0\r\n", trailers, b"\r\n"))


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


@dataclass(frozen=True)
class UpstreamAnswer:
    """What the engine sends, what of it the client gets as its body, and headers that must be there."""

    name: str
    sent: bytes
    body: bytes
    kind: str = ""
    coding: str | None = None
    status: int = 200
    then: str = ""


SSE, PLAIN, MIXED = "text/event-stream", "application/json", "multipart/mixed; boundary=b"
ANSWERS = [
    UpstreamAnswer("empty", counted(b""), b""),
    UpstreamAnswer("JSON", counted(JSON, f"Content-Type: {PLAIN}"), JSON, PLAIN),
    UpstreamAnswer("JSON in chunks", chunked(cut(JSON, 5), f"Content-Type: {PLAIN}"), JSON, PLAIN),
    UpstreamAnswer(
        "an error", counted(b"{}", f"Content-Type: {PLAIN}", status="429 Too Many"), b"{}", PLAIN, status=429
    ),
    UpstreamAnswer("events", chunked(iter(EVENTS), f"Content-Type: {SSE}"), b"".join(EVENTS), SSE),
    UpstreamAnswer(
        "events cut anywhere", chunked(cut(b"".join(EVENTS), 7), f"Content-Type: {SSE}"), b"".join(EVENTS), SSE
    ),
    UpstreamAnswer("events of a length", counted(b"".join(EVENTS), f"Content-Type: {SSE}"), b"".join(EVENTS), SSE),
    UpstreamAnswer("events until closed", head(f"Content-Type: {SSE}") + EVENTS[0], EVENTS[0], SSE, then="close"),
    UpstreamAnswer("HTTP/1.0", head(version="1.0") + LARGE, LARGE, then="close"),
    UpstreamAnswer("300 KB", counted(LARGE, "Content-Type: audio/wav"), LARGE, "audio/wav"),
    UpstreamAnswer("300 KB in chunks", chunked(cut(LARGE, 1000)), LARGE),
    UpstreamAnswer("50 MB", counted(HUGE), HUGE),
    UpstreamAnswer("50 MB in chunks", chunked(cut(HUGE, 100_000)), HUGE),
    UpstreamAnswer("multipart", counted(PARTS, f"Content-Type: {MIXED}"), PARTS, MIXED),
    UpstreamAnswer("compressed", counted(ZIPPED, "Content-Encoding: gzip"), ZIPPED, coding="gzip"),
    UpstreamAnswer("compressed chunks", chunked(cut(ZIPPED, 9), "Content-Encoding: gzip"), ZIPPED, coding="gzip"),
    UpstreamAnswer("extensions, trailers", chunked(cut(JSON, 9), extension=b' ;a="b"', trailers=b"A: b\r\n"), JSON),
]


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ways]:
    with all_ways(
        tmp_path_factory.mktemp("ways"), UPSTREAM__FIRST_BYTE_SECONDS="60", UPSTREAM__STALL_SECONDS="60"
    ) as made:
        yield made


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.name)
def test_an_answer_arrives_byte_for_byte(ways: Ways, way: str, answer: UpstreamAnswer):
    begin = answer.sent.index(b"\r\n\r\n") + 4
    for parts in ([], [5, begin - 2, begin + 11]):
        got = ways.ask(way, answer.sent, then=answer.then, parts=parts)
        assert (got.status, got.is_whole) == (answer.status, True)
        assert got.body == answer.body
        assert (got.header("content-type") or "", got.header("content-encoding")) == (answer.kind, answer.coding)
        assert got.header("x-accel-buffering") == ("no" if answer.kind == SSE else None)
        if len(answer.sent) > MIB:
            break


def test_the_ways_are_what_they_are_called(ways: Ways):
    """gunicorn writes the size of a chunk in capital letters, we and werkzeug do not."""
    raw = {}
    for way in WAYS:
        connection, _ = ways.send(way, chunked(iter([b"ab", b"c" * 8])), headers=["Connection: close"])
        with connection:
            raw[way] = connection.makefile("rb").read().partition(b"\r\n\r\n")[2]
    assert raw == {
        "socket": b"a\r\nabcccccccc\r\n0\r\n\r\n",
        "HTTP/1.0": b"abcccccccc",
        "gunicorn": b"A\r\nabcccccccc\r\n0\r\n\r\n",
        "werkzeug": b"a\r\nabcccccccc\r\n0\r\n\r\n",
    }


FORM = (
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + chance.randbytes(10_000)
    + b'\r\n--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b--\r\n'
)  # fmt: skip
BODIES = {
    "JSON": (b'{"model":"m", "n": 1e-07, "t": "\\u00e9"} \r\n', "application/json"),
    "300 KB": (b'{"model": "m", "x": "' + b"x" * 300_000 + b'"}', "application/json"),
    "50 MB": (b'{"model": "m", "x": "' + b"x" * 50_000_000 + b'"}', "application/json"),
    "multipart": (FORM, "multipart/form-data; boundary=b"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", BODIES)
def test_a_request_arrives_byte_for_byte(ways: Ways, way: str, name: str):
    body, kind = BODIES[name]
    if way in ("HTTP/1.0", "werkzeug") or name == "50 MB":  # the one knows no chunks, the other no trailers
        framed = (f"Content-Length: {len(body)}".encode(), body)
    else:
        chunks = b"".join(b"%x;a=b\r\n%s\r\n" % (len(piece), piece) for piece in cut(body, 7000))
        framed = (b"Transfer-Encoding: chunked", chunks + b"0\r\nA: b\r\n\r\n")
    service = ways.service(way)
    (service.folder / "answers" / "up").write_bytes(counted(b"ok"))
    path = "/tokenize" if kind.startswith("multipart") else "/v1/completions"  # of a route that any model serves
    version = "1.0" if way == "HTTP/1.0" else "1.1"
    with service.connect() as connection:
        line = f"POST {path}?say=up HTTP/{version}\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
        connection.sendall(line.encode() + framed[0] + b"\r\n\r\n" + framed[1])
        assert read(connection).body == b"ok"
    head_sent, _, arrived = (service.folder / "answers" / "up.seen").read_bytes().partition(b"\r\n\r\n")
    assert arrived == body
    assert f"Content-Length: {len(body)}" in head_sent.decode() and f"Content-Type: {kind}" in head_sent.decode()


def test_readers_of_a_byte_a_second_cost_no_memory(ways: Ways):
    """Four by each way, each 50 MB behind; others are served meanwhile, and nothing remains after they disconnect."""
    answers = [counted(HUGE), chunked(cut(HUGE, 100_000))]
    for way in WAYS:
        for answer in answers:
            ways.ask(way, answer)  # whatever a large answer costs for once
    wait_for(lambda: in_flight(ways) == 0, 10)
    workers = [ways.worker(program) for program in PROGRAMS]
    before = [(worker.memory_info().rss, worker.num_fds()) for worker in workers]
    with contextlib.ExitStack() as stack:
        slow = [
            stack.enter_context(ways.send(way, answer, receive_buffer_bytes=4096)[0])
            for way in WAYS
            for answer in answers * 2
        ]
        wait_for(lambda: in_flight(ways) == len(slow), 10)
        for _ in range(3):
            for connection in slow:
                assert connection.recv(1)
            time.sleep(0.5)
        assert [ways.ask(way, counted(LARGE)).body for way in PROGRAMS] == [LARGE] * 3
        grown = [worker.memory_info().rss - rss for worker, (rss, _) in zip(workers, before, strict=True)]
        assert max(grown) < 30 * MIB, f"{grown} of 200 MB and more each"
    wait_for(lambda: in_flight(ways) == 0, 10)
    files = [files + 2 for _, files in before]
    wait_for(lambda: all(worker.num_fds() <= most for worker, most in zip(workers, files, strict=True)), 10)


def in_flight(ways: Ways) -> int:
    """Requests that hold a slot, of all services."""
    return sum(ways.service(program).servers()[0]["requests"] for program in PROGRAMS)
