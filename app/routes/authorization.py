"""Doors: who may ask what. Passed before a route runs, so before a body is read.

With keys every route wants one, except those that PUBLIC names; ADMIN names those that want an admin's. Without keys
whoever reaches the address may do all: the service listens on loopback only then, and a web page that a browser on this
machine has open must not get through to it. Its requests are known by their Host or Origin, and by content types that
pages may send anywhere.
"""

from __future__ import annotations

import logging

from flask import Blueprint

from app.entities.key import ApiKey
from app.entities.model import Model
from app.entities.server import ServerState
from app.errors import InvalidApiKey, InvalidRequest, NotAllowed, NotFound, ProxyError
from app.routes.incoming_request import Incoming, incoming
from app.services import Doors
from app.use_cases.access import Offer, is_loopback, matching_key, offers

log = logging.getLogger(__name__)

bp = Blueprint("doors", __name__)

PUBLIC = {"health.show_health", "health.alive", "health.ready"}
OPEN_ON_THIS_MACHINE = {"metrics.show_metrics"}  # Prometheus here needs no key
ADMIN = {"models.load", "models.unload", "decisions.show_decisions"}
STATE_CHANGING = {"models.load", "models.unload"}


@bp.before_app_request
def before_flasks_routes() -> None:
    pass_doors(incoming())


def pass_doors(asked: Incoming) -> None:
    """Let the request in, with its key. Raises InvalidApiKey, NotAllowed or InvalidRequest."""
    try:
        _check(asked, asked.services.doors)
    except ProxyError as refused:
        name = asked.key.name if asked.key else None
        log.info(
            "refused status=%d endpoint=%s client=%s key=%s",
            *(refused.status, asked.endpoint or None, asked.client, name),
        )
        raise


def is_stranger(asked: Incoming) -> bool:
    """Whether the request came through a PUBLIC door alone, and is told no more than it must be."""
    doors = asked.services.doors
    return asked.key is None if doors.keys else not _host_is_welcome(asked, doors)


def _check(asked: Incoming, doors: Doors) -> None:
    came_by_hand = _find_key(asked, doors.keys) if doors.keys else False
    if doors.keys:
        _check_key(asked)
    elif doors.loopback_only:
        _check_that_it_is_from_here(asked, doors)
    if asked.endpoint in STATE_CHANGING and not came_by_hand and asked.mimetype != "application/json":
        raise InvalidRequest('this route wants a key, or -H "Content-Type: application/json"')


def find_model(asked: Incoming, name: str) -> Model:
    """The model of that name, if the request's key may use it. Raises ModelNotFound or NotAllowed."""
    return checked(asked, asked.services.catalog.find(name))


def checked(asked: Incoming, model: Model) -> Model:
    """The model, if the request's key may use it. Raises NotAllowed."""
    key = asked.key
    assert key or not asked.services.doors.keys, "no route about a model is open without a key"
    if key and not may_use(key, model):
        raise NotAllowed(f"the key {key.name!r} may not use {model.name}")
    return model


def servable_model(asked: Incoming, name: str) -> Model:
    """As find_model, and its header is looked at. Raises InvalidModelFile too, for one that cannot be served.

    One that is loaded answers at once: its files are not touched.
    """
    model = find_model(asked, name)
    if _is_loaded(asked, model) and not model.problem:
        return model
    found: Model = asked.services.catalog.servable(model)
    return found


def _is_loaded(asked: Incoming, model: Model) -> bool:
    """Whether its server is there, loading or loaded."""
    server = asked.services.store.pool.server_of(model.name)
    return server is not None and server.state is not ServerState.STOPPING and server.model.is_served_as(model)


def visible_models(asked: Incoming) -> list[Model]:
    """The models that the request's key may use."""
    models = asked.services.catalog.models()
    return [model for model in models if asked.key is None or may_use(asked.key, model)]


def may_use(key: ApiKey, model: Model) -> bool:
    """By the names that the model is listed under, however it was asked for: what a key sees it may use."""
    return key.allows(model.name, *model.aliases)


def no_such_path(asked: Incoming, why: str = "") -> NotFound:
    return NotFound(f"no such path: {asked.method} {asked.path[:200]}{f' ({why})' if why else ''}")


def _find_key(asked: Incoming, keys: tuple[ApiKey, ...]) -> bool:
    """Note the request's key in it. True when its client must have known it: a browser keeps passwords."""
    for offer in _offers(asked):
        if key := matching_key(keys, offer.key):
            asked.key = key
            return offer.by_hand
    return False


def _offers(asked: Incoming) -> list[Offer]:
    return offers(_as_typed(asked.header("Authorization")), _as_typed(asked.header("X-Api-Key")))


def _as_typed(header: str) -> str:
    """A key that is not ASCII was typed as UTF-8."""
    return header.encode("latin-1").decode("utf-8", "surrogateescape")


def _host_is_welcome(asked: Incoming, doors: Doors) -> bool:
    host = asked.header("Host")
    return not doors.loopback_only or not host or is_loopback(host) or host == doors.host


def _check_key(asked: Incoming) -> None:
    if asked.key is None and asked.endpoint not in PUBLIC and not _is_open_here(asked):
        raise InvalidApiKey(has_offer=bool(_offers(asked)), by_browser=asked.endpoint == "status.show_status")
    if asked.endpoint in ADMIN and asked.key and not asked.key.admin:
        raise NotAllowed(f"the key {asked.key.name!r} may not do that: it needs `admin: true`")


def _check_that_it_is_from_here(asked: Incoming, doors: Doors) -> None:
    """A web page may ask under a name of its own that leads here, or post anywhere: its browser says whose it is."""
    if asked.endpoint not in PUBLIC and not _host_is_welcome(asked, doors):
        name = asked.header("Host")[:200]
        raise NotAllowed(
            f"the Host {name!r} is not this machine's: to be reached by that name, configure keys or server.allow_open"
        )
    origin = "" if asked.method in ("GET", "HEAD", "OPTIONS") else asked.header("Origin")
    scheme, _, host = origin.lower().partition("://")
    # A page in a sandboxed frame is of no origin, and may post what a form may: any page can make one.
    is_nobodys = origin == "null" and asked.mimetype != "application/json"
    if is_nobodys or (scheme in ("http", "https") and not is_loopback(host)):
        raise NotAllowed(f"a page of {origin[:200]!r} may not use this service without a key: configure keys")


def _is_open_here(asked: Incoming) -> bool:
    """A request from this very machine, not one that a proxy here passes on for somebody else."""
    passed_on = any(asked.has(name) for name in ("X-Forwarded-For", "Forwarded", "X-Real-Ip", "Via"))
    here = is_loopback(asked.client) and is_loopback(asked.header("Host"))
    return asked.endpoint in OPEN_ON_THIS_MACHINE and not asked.arguments("model") and here and not passed_on
