"""Victims: which idle servers to evict for the memory a placement lacks, and what their eviction costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from math import inf

from app.entities.placement import CPU, LOAD_QUOTA, UNBOOKED_RAM, Resident

MAX_COMPARED = 8  # servers of which every subset is compared: 255
LOAD_BYTES_PER_SECOND = 1e9  # assumed if no load was measured: roughly a current disk


def sufficient_victims(servers: Sequence[Resident], missing: Mapping[str, int]) -> tuple[Resident, ...] | None:
    """The first of `servers`, in their order, that release what is missing; None if all of them do not.

    `missing` is bytes by resource. Servers that turn out to be unnecessary are left out again.
    """
    victims: list[Resident] = []
    left, short = dict(missing), set(missing)
    for server in servers:
        if not short:
            break
        if any(map(server.held_bytes.get, short)):
            victims.append(server)
            left = {what: size - server.held_bytes.get(what, 0) for what, size in left.items()}
            short = {what for what in short if left[what] > 0}
    if short:
        return None
    for server in list(victims):
        left_without = {what: size + server.held_bytes.get(what, 0) for what, size in left.items()}
        if all(size <= 0 for size in left_without.values()):
            victims.remove(server)
            left = left_without
    return tuple(victims)


def cheapest_victims(servers: Sequence[Resident], missing: Mapping[str, int]) -> tuple[Resident, ...] | None:
    """The set of servers that releases what is missing at the lowest `eviction_price`; None if all of them do not.

    `servers` come cheapest first. All subsets of the first MAX_COMPARED that hold anything missing are compared; with
    more servers the result may be `sufficient_victims`.
    """
    found = sufficient_victims(servers, missing)
    holding = [server for server in servers if any(map(server.held_bytes.get, missing))][:MAX_COMPARED]
    if not found or found == tuple(holding[:1]):
        return found
    lowest = eviction_price(found)
    for count in range(1, len(holding) + 1):
        for subset in combinations(holding, count):
            if (price := eviction_price(subset)) < lowest and _release(subset, missing):
                found, lowest = subset, price
    return found


def _release(servers: Iterable[Resident], missing: Mapping[str, int]) -> bool:
    held = memory_held_by(servers)
    return all(held.get(what, 0) >= size for what, size in missing.items())


def memory_held_by(servers: Iterable[Resident]) -> dict[str, int]:
    """What the servers release together when they stop, by resource."""
    total: dict[str, int] = {}
    for server in servers:
        for what, size in server.held_bytes.items():
            total[what] = total.get(what, 0) + size
    return total


def without_spare_cache(resident: Resident) -> Resident:
    """The server as it would be without the spare RAM that its prompt cache has."""
    held = {
        what: size - (resident.spare_cache_bytes if what in (CPU, UNBOOKED_RAM) else 0)
        for what, size in resident.held_bytes.items()
    }
    return replace(resident, held_bytes=held, spare_cache_bytes=0)


def eviction_rank(server: Resident) -> tuple[bool, bool, int, float]:
    """Sort key for the order of eviction: surplus replicas, then servers past their minimum residency, then by
    priority and reload cost."""
    return not server.is_surplus, server.is_in_min_residency, server.priority, reload_cost(server)


def eviction_price(victims: Iterable[Resident]) -> tuple[bool, bool, float, float]:
    """Price of evicting all of them, most significant part first. Surplus replicas are free."""
    victims = tuple(victims)
    missed = [victim for victim in victims if not victim.is_surplus]
    return (
        any(victim.is_busy for victim in victims),
        any(victim.is_in_min_residency for victim in missed),
        max((victim.priority for victim in missed), default=-inf),
        sum(map(reload_cost, missed)),
    )


def reload_cost(server: Resident) -> float:
    """Expected cost of an eviction: reload seconds x request rate. An uncounted rate is taken as 1 / idle time."""
    rate, seconds = server.requests_per_second, server.load_seconds
    if seconds is None:
        held = sum(size for what, size in server.held_bytes.items() if what not in (UNBOOKED_RAM, LOAD_QUOTA))
        seconds = held / LOAD_BYTES_PER_SECOND
    return seconds * (1 / max(1.0, server.idle_seconds) if rate is None else rate)


def model_names(servers: Iterable[Resident]) -> str:
    return ", ".join(sorted(server.model for server in servers))


def after_evicting(victims: Sequence[Resident]) -> str:
    """Tail of a reason; "" without victims."""
    return f" after evicting {model_names(victims)}" if victims else ""
