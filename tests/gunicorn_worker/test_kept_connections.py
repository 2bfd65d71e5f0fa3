"""Connections between two requests: each is taken out once, by whoever comes first."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from workers.gunicorn_worker.kept_connections import KeptConnections


@dataclass(eq=False)
class Conn:
    sock: socket.socket
    timeout: float = 10.0
    was_kept: bool = False


@pytest.fixture
def pair() -> Iterator[tuple[Any, socket.socket]]:
    ours, client = socket.socketpair()
    with ours, client:
        yield Conn(ours), client


def test_a_connection_is_taken_once_its_next_request_begins(pair: tuple[Any, socket.socket]):
    kept, (conn, client) = KeptConnections(), pair
    kept.add(conn)
    assert kept.take_readable() == []
    client.send(b"P")
    assert kept.take_readable() == [conn]
    assert (len(kept), kept.take_readable()) == (0, []), "while it is answered nobody else gets it"


def test_it_can_be_kept_again_also_if_bytes_came_meanwhile(pair: tuple[Any, socket.socket]):
    kept, (conn, client) = KeptConnections(), pair
    for _ in range(3):
        kept.add(conn)
        client.send(b"P")
        assert kept.take_readable() == [conn]
        client.send(b"early")


def test_the_overdue_are_taken_oldest_first_and_are_not_readable_any_more(pair: tuple[Any, socket.socket]):
    kept, (conn, client) = KeptConnections(), pair
    others = socket.socketpair()
    young = Conn(others[0], timeout=20.0)
    kept.add(conn)
    kept.add(young)
    assert kept.first_deadline() == 10.0
    client.send(b"P")
    assert kept.take_overdue(9.9) == []
    assert kept.take_overdue(10.0) == [conn]
    assert kept.take_readable() == []
    assert list(kept) == [young]
    for each in others:
        each.close()


def test_a_number_that_is_used_again_is_another_connection(pair: tuple[Any, socket.socket]):
    kept, (conn, _) = KeptConnections(), pair
    number = conn.sock.fileno()
    kept.add(conn)
    kept.take_overdue(11.0)
    conn.sock.close()
    ours, other = socket.socketpair()
    with ours, other:
        assert ours.fileno() == number, "the kernel gives the lowest"
        again = Conn(ours)
        kept.add(again)
        other.send(b"P")
        assert kept.take_readable() == [again]
