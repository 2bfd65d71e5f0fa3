"""Round robin: API keys take turns at the slots of a model, and at the loads.

Whatever its share of the queue, a key with one request waits for at most one request of every other key. Within a key,
requests keep their order. Without keys, and where only one key waits, that is the order of arrival.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from app.use_cases.scheduling.pool_state import Waiter

NEVER = -1


def by_key_in_turn(waiting: Sequence[Waiter], rotation: Mapping[str, Sequence[str]]) -> Sequence[Waiter]:
    """The waiters: for each model the first of every key, then the second of every key, and so on.

    `rotation`, by model name: keys in the order in which they last got a slot; the one longest ago comes first.
    """
    if len({waiter.key for waiter in waiting}) < 2:
        return waiting
    ahead: Counter[tuple[str, str]] = Counter()
    places = []
    for index, waiter in enumerate(waiting):
        name, key = waiter.model.name, waiter.key
        places.append((ahead[name, key], _place(rotation.get(name, ()), key), index))
        ahead[name, key] += 1
    return [waiting[index] for _, _, index in sorted(places)]


def models_by_key_in_turn(oldest: Sequence[Waiter], rotation: Sequence[str]) -> list[str]:
    """Names of the models to load, in the same way.

    `oldest` has a waiter for each model and key; `rotation`: keys in the order in which their last load began.
    """
    ahead: Counter[str] = Counter()
    places = []
    for index, waiter in enumerate(oldest):
        places.append((ahead[waiter.key], _place(rotation, waiter.key), index))
        ahead[waiter.key] += 1
    return list(dict.fromkeys(oldest[index].model.name for _, _, index in sorted(places)))


def moved_to_back(rotation: Sequence[str], key: str) -> tuple[str, ...]:
    """The rotation after one more turn of `key`."""
    return (*(other for other in rotation if other != key), key)


def _place(rotation: Sequence[str], key: str) -> int:
    return rotation.index(key) if key in rotation else NEVER
