"""The names of peers' models: PEER/MODEL always, and the model's own name. What is here has its names first.

Of several peers with a model of one name, the first in the order of the configuration has it, except while it does not
answer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from app.entities.model import LATEST
from app.entities.model_name import folded
from app.entities.peer import PeerModel, PeerStatus

Models = tuple[PeerModel, ...]


@dataclass(frozen=True, slots=True)
class PeerNames:
    """Models by name, in any spelling; those of one name in the order of the peers."""

    by_full_name: dict[str, Models] = field(default_factory=dict)
    by_own_name: dict[str, Models] = field(default_factory=dict)

    def named(self, name: str) -> Models:
        """The models that a name may mean; none for an unknown one. A name with a peer in it means that one."""
        if not self.by_full_name:  # at every request
            return ()
        spellings = dict.fromkeys((folded(name), folded(name.removesuffix(LATEST))))
        return next(filter(None, (by.get(each) for each in spellings for by in self._maps)), ())

    @property
    def _maps(self) -> tuple[dict[str, Models], dict[str, Models]]:
        return self.by_full_name, self.by_own_name


def peer_names(models: Iterable[PeerModel]) -> PeerNames:
    """`models`: in the order of the peers."""
    full: dict[str, list[PeerModel]] = defaultdict(list)
    own: dict[str, list[PeerModel]] = defaultdict(list)
    for model in models:
        full[folded(model.name)].append(model)
        own[folded(model.id)].append(model)
    return PeerNames(_frozen(full), _frozen(own))


def _frozen(found: dict[str, list[PeerModel]]) -> dict[str, Models]:
    return {name: tuple(models) for name, models in found.items()}


def in_order(models: Sequence[PeerModel], statuses: Iterable[PeerStatus]) -> list[PeerModel]:
    """Those of peers that answer first."""
    unavailable = {status.name for status in statuses if not status.is_available}
    return sorted(models, key=lambda model: model.peer in unavailable)


def unlisted_peer(name: str, statuses: Iterable[PeerStatus]) -> PeerStatus | None:
    """The peer that a name begins with, if its list is not known yet."""
    peer, slash, _ = name.partition("/")
    return next((each for each in statuses if slash and each.name == peer and not each.is_listed), None)
