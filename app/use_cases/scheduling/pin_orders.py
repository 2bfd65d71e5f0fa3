"""Pin orders: models that somebody has pinned or unpinned while the service runs, in place of their `pin` setting.

An order lasts until the service restarts, or a reload finds other settings or another file for the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.entities.model import Model


@dataclass(frozen=True, slots=True)
class Pinned:
    """An event: somebody orders the model to be pinned, or not."""

    model: Model
    is_pinned: bool
    at: float


PinOrders = Mapping[str, Pinned]  # the last one for each model, by name


def is_pinned(orders: PinOrders, model: Model) -> bool:
    """Whether the model may not be evicted: by the order, else by its settings."""
    order = orders.get(model.name)
    return model.pin if order is None else order.is_pinned


def stays_when_idle(orders: PinOrders, model: Model) -> bool:
    """Whether it is not unloaded however long nobody uses it. The `ttl_seconds` of its own counts beside the setting,
    not beside an order: that came later."""
    return is_pinned(orders, model) and (model.name in orders or model.ttl_seconds is None)


def orders_after_reload(orders: PinOrders, models: Mapping[str, Model]) -> PinOrders:
    """The orders about models that are defined as before."""
    return {name: order for name, order in orders.items() if models.get(name) == order.model}
