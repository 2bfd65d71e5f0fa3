"""Raw HTTP: whatever arrives, in whatever pieces, is one request or an error of ours."""

from __future__ import annotations

import contextlib
import itertools
import socket

import pytest
from gunicorn.config import Config
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ProxyError
from tests.fuzz.strategies import corpus, damaged
from workers.gunicorn_worker.body_reading import BodyFailed, BodyReader, PacedUnreader
from workers.gunicorn_worker.error_answers import request_error, response_bytes
from workers.gunicorn_worker.receiving import ClientConnection, Head
from workers.gunicorn_worker.request_handler import parse, wsgi_environ

pytestmark = [pytest.mark.integration, pytest.mark.gunicorn]

ADDRESS = ("127.0.0.1", 1)
Outcome = tuple[object, ...]


def received(pieces: list[bytes]) -> Outcome:
    """What is made of these bytes, after which the client closes its side: a request with its body and what follows,
    or the status of an error."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = ClientConnection(ours, ADDRESS, ADDRESS)
        try:
            head = Head.PARTIAL
            for piece in pieces:
                theirs.sendall(piece)
                if head is Head.PARTIAL:
                    head = connection.read_head()
            theirs.shutdown(socket.SHUT_WR)
            while head is Head.PARTIAL:
                head = connection.read_head()
            return ("closed",) if head is Head.CLOSED else _request(connection)
        except ProxyError as error:
            return _status(error)


def _request(connection: ClientConnection) -> Outcome:
    unreader = PacedUnreader(connection, 5.0)
    try:
        request = parse(unreader, connection, Config())
    except Exception as error:
        return _status(request_error(error))
    environ = wsgi_environ(request, connection)
    reader = BodyReader(request, unreader, connection.sock)
    body = b""
    try:
        while data := reader.read(1000):
            body += data
    except BodyFailed as failure:
        return _status(request_error(failure.__cause__))
    rest = unreader.take_rest()
    with contextlib.suppress(OSError):
        while more := connection.sock.recv(4096):
            rest += more
    return environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"], body, rest


def _status(error: ProxyError) -> Outcome:
    assert 400 <= error.status < 500, error
    assert response_bytes(error).startswith(b"HTTP/1.1 4")
    return (error.status,)


@given(damaged(corpus("requests.txt")) | st.binary(max_size=64))
def test_any_bytes_are_a_request_or_a_clients_error(data: bytes):
    assert received([data])


@given(damaged(corpus("requests.txt")), st.lists(st.integers(1, 120), max_size=3).map(sorted))
def test_the_same_bytes_are_the_same_request_in_any_pieces(data: bytes, cuts: list[int]):
    edges = [0, *(cut for cut in cuts if cut < len(data)), len(data)]
    whole = received([data])
    assert received([data[start:end] for start, end in itertools.pairwise(edges)]) == whole
