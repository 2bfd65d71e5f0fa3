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
from app.routes.incoming_request import IncomingRequest, current_request
from app.services import AccessPolicy
from app.use_cases.access import Credentials, credentials_offered, is_loopback, matching_key

log = logging.getLogger(__name__)

bp = Blueprint("doors", __name__)

PUBLIC = {"health.show_health", "health.alive", "health.ready"}
OPEN_ON_THIS_MACHINE = {"metrics.show_metrics"}  # Prometheus here needs no key
ADMIN = {"models.load", "models.unload", "decisions.show_decisions"}
STATE_CHANGING = {"models.load", "models.unload"}


@bp.before_app_request
def before_flasks_routes() -> None:
    authorize(current_request())


def authorize(request: IncomingRequest) -> None:
    """Let the request in, with its key. Raises InvalidApiKey, NotAllowed or InvalidRequest."""
    try:
        _check(request, request.services.access_policy)
    except ProxyError as refused:
        name = request.key.name if request.key else None
        log.info(
            "refused status=%d endpoint=%s client=%s key=%s",
            *(refused.status, request.endpoint or None, request.client, name),
        )
        raise


def is_anonymous(request: IncomingRequest) -> bool:
    """Whether the request came through a PUBLIC door alone, and is told no more than it must be."""
    access = request.services.access_policy
    return request.key is None if access.keys else not _host_is_welcome(request, access)


def _check(request: IncomingRequest, access: AccessPolicy) -> None:
    is_explicit = _find_key(request, access.keys) if access.keys else False
    if access.keys:
        _check_key(request)
    elif access.loopback_only:
        _check_that_it_is_from_here(request, access)
    if request.endpoint in STATE_CHANGING and not is_explicit and request.mimetype != "application/json":
        raise InvalidRequest('this route wants a key, or -H "Content-Type: application/json"')


def find_model(request: IncomingRequest, name: str) -> Model:
    """The model of that name, if the request's key may use it. Raises ModelNotFound or NotAllowed."""
    return checked(request, request.services.catalog.find(name))


def checked(request: IncomingRequest, model: Model) -> Model:
    """The model, if the request's key may use it. Raises NotAllowed."""
    key = request.key
    assert key or not request.services.access_policy.keys, "no route about a model is open without a key"
    if key and not may_use(key, model):
        raise NotAllowed(f"the key {key.name!r} may not use {model.name}")
    return model


def servable_model(request: IncomingRequest, name: str) -> Model:
    """As find_model, and its header is looked at. Raises InvalidModelFile too, for one that cannot be served.

    One that is loaded answers at once: its files are not touched.
    """
    model = find_model(request, name)
    if _is_loaded(request, model) and not model.problem:
        return model
    return request.services.catalog.servable(model)


def _is_loaded(request: IncomingRequest, model: Model) -> bool:
    """Whether its server is there, loading or loaded."""
    server = request.services.store.pool.server_of(model.name)
    return server is not None and server.state is not ServerState.STOPPING and server.model.is_served_as(model)


def visible_models(request: IncomingRequest) -> list[Model]:
    """The models that the request's key may use."""
    models = request.services.catalog.models()
    return [model for model in models if request.key is None or may_use(request.key, model)]


def may_use(key: ApiKey, model: Model) -> bool:
    """By the names that the model is listed under, however it was asked for: what a key sees it may use."""
    return key.allows(model.name, *model.aliases)


def no_such_path(request: IncomingRequest, why: str = "") -> NotFound:
    return NotFound(f"no such path: {request.method} {request.path[:200]}{f' ({why})' if why else ''}")


def _find_key(request: IncomingRequest, keys: tuple[ApiKey, ...]) -> bool:
    """Note the request's key in it. True when its client must have known it: a browser keeps passwords."""
    for offer in _offers(request):
        if key := matching_key(keys, offer.key):
            request.key = key
            return offer.is_explicit
    return False


def _offers(request: IncomingRequest) -> list[Credentials]:
    return credentials_offered(_as_typed(request.header("Authorization")), _as_typed(request.header("X-Api-Key")))


def _as_typed(header: str) -> str:
    """A key that is not ASCII was typed as UTF-8."""
    return header.encode("latin-1").decode("utf-8", "surrogateescape")


def _host_is_welcome(request: IncomingRequest, access: AccessPolicy) -> bool:
    host = request.header("Host")
    return not access.loopback_only or not host or is_loopback(host) or host == access.host


def _check_key(request: IncomingRequest) -> None:
    if request.key is None and request.endpoint not in PUBLIC and not _is_open_here(request):
        raise InvalidApiKey(has_offer=bool(_offers(request)), by_browser=request.endpoint == "status.show_status")
    if request.endpoint in ADMIN and request.key and not request.key.admin:
        raise NotAllowed(f"the key {request.key.name!r} may not do that: it needs `admin: true`")


def _check_that_it_is_from_here(request: IncomingRequest, access: AccessPolicy) -> None:
    """A web page may ask under a name of its own that leads here, or post anywhere: its browser says whose it is."""
    if request.endpoint not in PUBLIC and not _host_is_welcome(request, access):
        name = request.header("Host")[:200]
        raise NotAllowed(
            f"the Host {name!r} is not this machine's: to be reached by that name, configure keys or server.allow_open"
        )
    origin = "" if request.method in ("GET", "HEAD", "OPTIONS") else request.header("Origin")
    scheme, _, host = origin.lower().partition("://")
    # A page in a sandboxed frame is of no origin, and may post what a form may: any page can make one.
    is_nobodys = origin == "null" and request.mimetype != "application/json"
    if is_nobodys or (scheme in ("http", "https") and not is_loopback(host)):
        raise NotAllowed(f"a page of {origin[:200]!r} may not use this service without a key: configure keys")


def _is_open_here(request: IncomingRequest) -> bool:
    """A request from this very machine, not one that a proxy here passes on for somebody else."""
    passed_on = any(request.has(name) for name in ("X-Forwarded-For", "Forwarded", "X-Real-Ip", "Via"))
    here = is_loopback(request.client) and is_loopback(request.header("Host"))
    return request.endpoint in OPEN_ON_THIS_MACHINE and not request.arguments("model") and here and not passed_on
