"""A changed copy is what dataclasses.replace would make, and the original stays as it is."""

from __future__ import annotations

import dataclasses

import pytest

from app.entities.frozen import replace
from app.use_cases.scheduling.pool_state import PoolState, Waiter
from tests.helpers.builders import a_model, a_server


def test_a_copy_is_what_dataclasses_would_make():
    server = a_server(a_model(), 1)
    made = replace(server, pid=7, leases=frozenset({1}))
    assert made == dataclasses.replace(server, pid=7, leases=frozenset({1}))
    assert (server.pid, server.leases) == (None, frozenset())
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.pid = 8  # type: ignore[misc]


def test_a_field_that_is_not_there_is_a_bug():
    with pytest.raises(AssertionError, match=r"PoolState has no \{'serverz'\}"):
        replace(PoolState(), serverz=())


def test_values_with_slots_go_the_long_way():
    waiting = Waiter(1, a_model(), 0.0, 1.0)
    assert replace(waiting, ticket=2) == Waiter(2, a_model(), 0.0, 1.0)
