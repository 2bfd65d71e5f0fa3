"""Peers' models, as a request's key may see and use them. What is here has its names first."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from app.entities.key import ApiKey
from app.entities.model import Model
from app.entities.peer import HOPS_HEADER, PeerModel, PeerStatus
from app.errors import ModelNotFound, PeerLoop, PeerUnavailable
from app.routes.incoming_request import IncomingRequest
from app.use_cases.peers.names import in_order, unlisted_peer
from app.use_cases.reporting.peer_models import ListedPeerModel, listed_peer_models, problem_text

SOON_SECONDS = 2.0


def models_at_peers(request: IncomingRequest, name: str) -> list[PeerModel]:
    """The models of peers that the name of an inference request means, the one to try first in front; none if it does
    not mean any. Raises PeerLoop, and PeerUnavailable for a peer whose list is not known yet."""
    peers = request.services.peers
    usable = [model for model in peers.names.named(name) if may_use_at_peer(request, model)]
    unlisted = None if usable or "/" not in name else _unlisted(request, name)
    if not (usable or unlisted) or is_here(request, name):
        return []
    if request.has(HOPS_HEADER):
        raise PeerLoop(
            f"{name[:200]} is a model of a peer, and the request came from a peer: it is passed on only once"
        )
    if unlisted is not None:
        problem = f" ({unlisted.problem})" if unlisted.problem else ""
        text = f"the models of peer {unlisted.name} are not known yet{problem}; try again later"
        raise PeerUnavailable(text, unlisted.retry_seconds or SOON_SECONDS)
    return in_order(usable, peers.statuses)


def model_at_peer(request: IncomingRequest, name: str) -> PeerModel | None:
    """The model of a peer that the name means, for a route that sends it nothing."""
    with contextlib.suppress(PeerLoop, PeerUnavailable):
        return next(iter(models_at_peers(request, name)), None)
    return None


def _unlisted(request: IncomingRequest, name: str) -> PeerStatus | None:
    is_allowed = request.key is None or request.key.allows(name)
    return unlisted_peer(name, request.services.peers.statuses) if is_allowed else None


def may_use(key: ApiKey | None, model: Model) -> bool:
    """By the names under which the model is listed, whichever was requested: a key may use what it sees."""
    return key is None or key.allows(*model.names)


def may_use_at_peer(request: IncomingRequest, model: PeerModel) -> bool:
    """By its name with its peer, or by its own name where that is not the name of a model here."""
    key = request.key
    return key is None or key.allows(model.name) or (key.allows(model.id) and not _is_anyones(request, model.id))


def is_here(request: IncomingRequest, name: str) -> bool:
    """Whether the name means a model of this machine, or a virtual one, to the request's key. Searches no files."""
    catalog = request.services.catalog
    allowed = partial(may_use, request.key)
    for each in catalog.members(name) or (name,):
        with contextlib.suppress(ModelNotFound):
            catalog.find(each, allowed)
            return True
    return False


def _is_anyones(request: IncomingRequest, name: str) -> bool:
    """Whether a model here has the name, also one that the key may not use."""
    with contextlib.suppress(ModelNotFound):
        request.services.catalog.find(name)
        return True
    return False


def visible_peers(request: IncomingRequest) -> tuple[PeerStatus, ...]:
    """What is known of the peers, with those of their models that the request's key may use. A limited key sees none
    of which it may use nothing."""
    statuses = [_visible(request, status) for status in request.services.peers.statuses]
    is_limited = request.key is not None and request.key.is_limited
    return tuple(status for status in statuses if status.models or not is_limited)


def _visible(request: IncomingRequest, status: PeerStatus) -> PeerStatus:
    return replace(status, models=tuple(model for model in status.models if may_use_at_peer(request, model)))


def visible_peer_names(request: IncomingRequest) -> list[str]:
    """The names that models of peers have in any case, of those that the request's key may use."""
    return [model.name for status in visible_peers(request) for model in status.models]


def peer_models_for_lists(request: IncomingRequest) -> Sequence[ListedPeerModel]:
    """Those for lists of models; a peer that asks gets none, or they would be listed round and round."""
    if request.has(HOPS_HEADER):
        return ()
    statuses = visible_peers(request)
    own = [model.id for status in statuses for model in status.models]
    return listed_peer_models(statuses, {name for name in dict.fromkeys(own) if is_here(request, name)})


def listed_peer_model(request: IncomingRequest, name: str) -> ListedPeerModel | None:
    """The model of a peer that a name means, as lists have it."""
    model = model_at_peer(request, name)
    status = next((each for each in request.services.peers.statuses if model and each.name == model.peer), None)
    return ListedPeerModel(model, problem=problem_text(status)) if model and status else None
