"""Connections to servers that wait for their next request."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from workers.relay import connections as module
from workers.relay.connections import UpstreamConnection, UpstreamConnections

pytestmark = pytest.mark.integration


@contextlib.contextmanager
def a_server() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def is_closed(connection: UpstreamConnection) -> bool:
    return connection.socket.fileno() < 0


def test_a_returned_connection_carries_the_next_request():
    connections = UpstreamConnections()
    with a_server() as port:
        first = connections.take(port)
        connections.give_back(first)
        assert connections.take(port) is first
        first.close()


def test_a_server_that_accepts_no_connection_is_named(monkeypatch: pytest.MonkeyPatch):
    """Its backlog is full: the error said just "timed out"."""
    monkeypatch.setattr(module, "CONNECT_SECONDS", 0.1)
    with socket.socket() as listener, contextlib.ExitStack() as opened:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        with pytest.raises(TimeoutError, match="accepted no connection"):
            for _ in range(5):
                opened.callback(UpstreamConnections().new(listener.getsockname()[1]).close)


def test_connections_of_an_ended_server_are_closed():
    connections = UpstreamConnections()
    with a_server() as one, a_server() as other:
        first, second = connections.take(one), connections.take(other)
        connections.give_back(first)
        connections.give_back(second)
        connections.forget(one)
        assert (is_closed(first), is_closed(second)) == (True, False)
        connections.close()


def test_connections_that_were_idle_for_too_long_are_closed_for_all_servers(monkeypatch: pytest.MonkeyPatch):
    """Without a look at all servers they would stay open for a server without requests."""
    connections = UpstreamConnections()
    with a_server() as one, a_server() as other:
        first, second = connections.take(one), connections.take(other)
        monkeypatch.setattr(module, "KEPT_SECONDS", 0.0)
        connections.give_back(first)
        connections.give_back(second)
        assert (is_closed(first), is_closed(second)) == (True, False)
        connections.close()
