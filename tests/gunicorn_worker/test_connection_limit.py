"""Which connections make room for new ones."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from workers.gunicorn_worker.connection_limit import ConnectionLimit, longest_waiting
from workers.gunicorn_worker.receiving import Phase

LIMIT = ConnectionLimit.of(2560)
NOW = 100.0


def a_connection(phase: Phase, since: float, address: str = "a") -> Any:
    return SimpleNamespace(phase=phase, since=since, address=address)


def test_one_address_leaves_room_for_others():
    assert ConnectionLimit(2560, 2048) == LIMIT
    assert ConnectionLimit.of(100) == ConnectionLimit(100, 50)


@pytest.mark.parametrize(
    ("counts", "address", "makes_room"),
    [({"a": 2047}, "a", None), ({"a": 2048}, "a", "a"), ({"a": 2048}, "b", None), ({"a": 1500, "b": 1060}, "b", "a")],
)
def test_the_address_with_the_most_makes_room(counts: dict[str, int], address: str, makes_room: str | None):
    assert LIMIT.excess(Counter(counts), sum(counts.values()), address) == makes_room


def test_the_longest_waiting_go_and_answers_on_their_way_last():
    idle, head, fresh = (a_connection(*each) for each in ((Phase.IDLE, 50), (Phase.HEAD, 60), (Phase.IDLE, NOW)))
    served, lingering = a_connection(Phase.SERVED, 0), a_connection(Phase.LINGERING, 10)
    other = a_connection(Phase.HEAD, 1, "b")
    connections = [fresh, served, lingering, head, other, idle]
    assert longest_waiting(connections, "a", NOW) == [idle]
    connections.remove(idle)
    assert longest_waiting(connections, "a", NOW) == [head]
    connections.remove(head)
    assert longest_waiting(connections, "a", NOW) == [lingering]
    connections.remove(lingering)
    assert longest_waiting(connections, "a", NOW) == []


def test_a_flood_is_closed_in_batches():
    flood = [a_connection(Phase.HEAD, since) for since in range(1000)]
    assert longest_waiting(flood, "a", NOW) == flood[:32]
