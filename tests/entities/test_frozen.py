"""A changed copy equals the one of dataclasses.replace, and the original is unchanged."""

from __future__ import annotations

import dataclasses

import pytest

from app.entities.frozen import replace
from app.use_cases.scheduling.pool_state import PoolState, Waiter
from tests.helpers.builders import a_model, a_server


def test_a_copy_equals_that_of_dataclasses_replace():
    server = a_server(a_model(), 1)
    made = replace(server, pid=7, leases=frozenset({1}))
    assert made == dataclasses.replace(server, pid=7, leases=frozenset({1}))
    assert (server.pid, server.leases) == (None, frozenset())
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.pid = 8  # type: ignore[misc]


def test_an_unknown_field_is_a_bug():
    with pytest.raises(AssertionError, match=r"PoolState has no \{'serverz'\}"):
        replace(PoolState(), serverz=())


def test_values_with_slots_use_dataclasses_replace():
    waiting = Waiter(1, a_model(), 0.0, 1.0)
    assert replace(waiting, ticket=2) == Waiter(2, a_model(), 0.0, 1.0)
