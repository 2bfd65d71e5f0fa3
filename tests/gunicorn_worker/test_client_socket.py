"""When an application gets the client's socket, and when an answer takes gunicorn's WSGI path."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from typing import Any

import gunicorn
import pytest
from gunicorn.config import Config
from gunicorn.http.wsgi import Response

from workers.gunicorn_worker.client_socket import direct_answer

pytestmark = pytest.mark.gunicorn


@pytest.fixture
def client() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours


class Request:
    version, method, headers, should_close = (1, 1), "POST", (), bool


def a_response(sock: socket.socket) -> Any:
    return Response(Request(), sock, Config())


def test_a_tested_release_gives_the_socket(client: socket.socket):
    direct = direct_answer({"gunicorn.socket": client}, a_response(client).start_response)
    assert direct is not None and direct.socket is client


def test_an_untested_release_gives_no_socket(client: socket.socket, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gunicorn, "version_info", (27, 1, 0))
    assert direct_answer({"gunicorn.socket": client}, a_response(client).start_response) is None


def test_a_tls_connection_gives_no_socket(client: socket.socket):
    encrypted = ssl.SSLSocket.__new__(ssl.SSLSocket)
    assert direct_answer({"gunicorn.socket": encrypted}, a_response(client).start_response) is None


def test_another_server_gives_no_socket(client: socket.socket):
    assert direct_answer({}, lambda status, headers: None) is None
    assert direct_answer({"gunicorn.socket": client}, lambda status, headers: None) is None
