"""Doors: who may ask what. Passed before a route runs, so before a body is read.

With keys every route wants one, except those that PUBLIC names; ADMIN names those that want an admin's. Without keys
whoever reaches the address may do all: the service listens on loopback only then, and a web page that a browser on this
machine has open must not get through to it. Its requests are known by their Host or Origin, and by content types that
pages may send anywhere.
"""

from __future__ import annotations

import logging

from flask import Blueprint, g, request

from app.entities.key import ApiKey
from app.entities.model import Model
from app.entities.server import ServerState
from app.errors import InvalidApiKey, InvalidRequest, NotAllowed, NotFound, ProxyError
from app.services import Doors, services
from app.use_cases.access import Offer, is_loopback, matching_key, offers

log = logging.getLogger(__name__)

bp = Blueprint("doors", __name__)

PUBLIC = {"health.show_health", "health.alive", "health.ready"}
OPEN_ON_THIS_MACHINE = {"metrics.show_metrics"}  # Prometheus here needs no key
ADMIN = {"models.load", "models.unload", "decisions.show_decisions"}
STATE_CHANGING = {"models.load", "models.unload"}


@bp.before_app_request
def pass_doors() -> None:
    """Let the request in, with its key in `g.key`. Raises InvalidApiKey, NotAllowed or InvalidRequest."""
    g.key = None
    try:
        _check(services().doors)
    except ProxyError as refused:
        name = g.key.name if g.key else None
        log.info(
            "refused status=%d endpoint=%s client=%s key=%s",
            *(refused.status, request.endpoint, request.remote_addr, name),
        )
        raise


def is_stranger() -> bool:
    """Whether the present request came through a PUBLIC door alone, and is told no more than it must be."""
    doors = services().doors
    return g.key is None if doors.keys else not _host_is_welcome(doors)


def _check(doors: Doors) -> None:
    endpoint = request.endpoint or ""
    came_by_hand = _find_key(doors.keys)
    if doors.keys:
        _check_key(endpoint)
    elif doors.loopback_only:
        _check_that_it_is_from_here(doors, endpoint)
    if endpoint in STATE_CHANGING and not came_by_hand and request.mimetype != "application/json":
        raise InvalidRequest('this route wants a key, or -H "Content-Type: application/json"')


def key_of_request() -> ApiKey | None:
    """The key the present request came with; None where none are configured."""
    found: ApiKey | None = g.get("key")
    return found


def find_model(name: str) -> Model:
    """The model of that name, if the request's key may use it. Raises ModelNotFound or NotAllowed."""
    return checked(services().catalog.find(name))


def checked(model: Model) -> Model:
    """The model, if the request's key may use it. Raises NotAllowed."""
    key = key_of_request()
    assert key or not services().doors.keys, "no route about a model is open without a key"
    if key and not may_use(key, model):
        raise NotAllowed(f"the key {key.name!r} may not use {model.name}")
    return model


def servable_model(name: str) -> Model:
    """As find_model, and its header is looked at. Raises InvalidModelFile too, for one that cannot be served.

    One that is loaded answers at once: its files are not touched.
    """
    model = find_model(name)
    if _is_loaded(model) and not model.problem:
        return model
    found: Model = services().catalog.servable(model)
    return found


def _is_loaded(model: Model) -> bool:
    """Whether its server is there, loading or loaded."""
    server = services().store.pool.server_of(model.name)
    return server is not None and server.state is not ServerState.STOPPING and server.model.is_served_as(model)


def visible_models() -> list[Model]:
    """The models that the request's key may use."""
    key = key_of_request()
    return [model for model in services().catalog.models() if key is None or may_use(key, model)]


def may_use(key: ApiKey, model: Model) -> bool:
    """By the names that the model is listed under, however it was asked for: what a key sees it may use."""
    return key.allows(model.name, *model.aliases)


def no_such_path(why: str = "") -> NotFound:
    return NotFound(f"no such path: {request.method} {request.path[:200]}{f' ({why})' if why else ''}")


def _find_key(keys: tuple[ApiKey, ...]) -> bool:
    """Put the request's key into `g`. True when its client must have known it: a browser keeps passwords."""
    for offer in _offers():
        if key := matching_key(keys, offer.key):
            g.key = key
            return offer.by_hand
    return False


def _offers() -> list[Offer]:
    return offers(_header("Authorization"), _header("X-Api-Key"))


def _header(name: str) -> str:
    """A header's text. WSGI reads its bytes as Latin-1; a key that is not ASCII was typed as UTF-8."""
    return request.headers.get(name, "").encode("latin-1").decode("utf-8", "surrogateescape")


def _host_is_welcome(doors: Doors) -> bool:
    host = request.headers.get("Host", "")
    return not doors.loopback_only or not host or is_loopback(host) or host == doors.host


def _check_key(endpoint: str) -> None:
    if g.key is None and endpoint not in PUBLIC and not _is_open_here(endpoint):
        raise InvalidApiKey(has_offer=bool(_offers()), by_browser=endpoint == "status.show_status")
    if endpoint in ADMIN and not g.key.admin:
        raise NotAllowed(f"the key {g.key.name!r} may not do that: it needs `admin: true`")


def _check_that_it_is_from_here(doors: Doors, endpoint: str) -> None:
    """A web page may ask under a name of its own that leads here, or post anywhere: its browser says whose it is."""
    if endpoint not in PUBLIC and not _host_is_welcome(doors):
        name = request.headers["Host"][:200]
        raise NotAllowed(
            f"the Host {name!r} is not this machine's: to be reached by that name, configure keys or server.allow_open"
        )
    origin = "" if request.method in ("GET", "HEAD", "OPTIONS") else request.headers.get("Origin", "")
    scheme, _, host = origin.partition("://")
    if scheme in ("http", "https") and not is_loopback(host):
        raise NotAllowed(f"a page of {origin[:200]!r} may not use this service without a key: configure keys")


def _is_open_here(endpoint: str) -> bool:
    """A request from this very machine, not one that a proxy here passes on for somebody else."""
    passed_on = any(name in request.headers for name in ("X-Forwarded-For", "Forwarded", "X-Real-Ip", "Via"))
    here = is_loopback(request.remote_addr or "") and is_loopback(request.headers.get("Host", ""))
    return endpoint in OPEN_ON_THIS_MACHINE and "model" not in request.args and here and not passed_on
