"""Pinning while the service runs: what is checked before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from app.entities.gpu import GpuSnapshot, GpuState
from app.entities.memory import MemoryReading
from app.entities.model import Model
from app.errors import InvalidModelFile, ModelDoesNotFit
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.scheduling.events import Event
from app.use_cases.scheduling.pin_orders import Pinned
from app.use_cases.scheduling.pool_state import NO_GPUS, PoolState
from tests.helpers.builders import GIB, a_model, a_placement_request, memory
from workers.pool.pinning import Pinning
from workers.telemetry.store import StateStore

SIX, TEN, BAD = a_model("six"), a_model("ten"), a_model("bad")
GIB_OF = {"six": 6, "ten": 10}


class Case:
    """A machine with 12 GiB of RAM and no GPU."""

    def __init__(self, *models: Model, gpus: GpuSnapshot = NO_GPUS, **orders: bool) -> None:
        pin_orders = {model.name: Pinned(model, orders[model.name], 0.0) for model in models if model.name in orders}
        store = StateStore(PoolState(gpus=gpus, pin_orders=pin_orders))
        self.posted: list[Event] = []
        self.pinning = Pinning(store, lambda: models, self.request, self.read_memory, self.posted.append)

    def request(self, model: Model) -> PlacementRequest:
        if model.name == "bad":
            raise InvalidModelFile("bad", "is damaged")
        return a_placement_request(GIB_OF[model.name] * GIB)

    def read_memory(self, pids: Mapping[int, int]) -> MemoryReading:
        return memory(0.0, 1.0, 12.0)

    @property
    def orders(self) -> list[tuple[str, bool]]:
        return [(event.model.name, event.is_pinned) for event in self.posted if isinstance(event, Pinned)]


def test_a_pin_that_fits_beside_the_others_is_ordered():
    case = Case(SIX, TEN)
    case.pinning.pin(replace(TEN, variant="ten-fast"))
    assert case.orders == [("ten", True)]
    assert case.posted[0].model == TEN, "whatever it was called"  # type: ignore[union-attr]


@pytest.mark.parametrize("orders", [{}, {"ten": True}])
def test_a_pin_that_does_not_fit_beside_the_pinned_models_is_refused_with_numbers(orders: dict[str, bool]):
    case = Case(SIX, replace(TEN, pin=not orders), **orders)
    with pytest.raises(ModelDoesNotFit, match=r"6,144 MiB.*10,240 MiB on cpu|10,240 MiB on cpu.*6,144 MiB"):
        case.pinning.pin(SIX)
    assert case.orders == []


def test_a_model_that_was_unpinned_by_order_is_not_in_the_way():
    case = Case(SIX, replace(TEN, pin=True), ten=False)
    case.pinning.pin(SIX)
    assert case.orders == [("six", True)]


def test_a_broken_model_is_not_pinned_and_a_broken_pinned_one_is_not_in_the_way():
    with pytest.raises(InvalidModelFile):
        Case(BAD).pinning.pin(BAD)
    case = Case(SIX, replace(BAD, pin=True))
    case.pinning.pin(SIX)
    case.pinning.unpin(BAD)
    assert case.orders == [("six", True), ("bad", False)]


def test_nothing_is_refused_while_it_is_not_known_what_the_machine_has():
    case = Case(SIX, replace(TEN, pin=True), gpus=GpuSnapshot(GpuState.UNREAD, at=0.0))
    case.pinning.pin(SIX)
    assert case.orders == [("six", True)]
