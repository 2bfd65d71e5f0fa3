"""Authorization: who may send which request. Checked before a route runs, so before a body is read.

With keys, every route requires one except those in PUBLIC, and those in ADMIN require an admin's. Without keys, whoever
reaches the address may do everything: the service listens on loopback only then, and must still be out of reach for web
pages that a browser on this machine has open. Their requests are recognized by Host and Origin, and by content types
that a page may send to any site.
"""

from __future__ import annotations

import time

from flask import Blueprint

from app.entities.key import ApiKey
from app.entities.model import Model
from app.entities.server import ServerState
from app.errors import InvalidApiKey, InvalidRequest, NotAllowed, ProxyError
from app.routes.incoming_request import IncomingRequest, current_request
from app.services import AccessPolicy
from app.use_cases.credentials import Credentials, credentials_offered, is_loopback, matching_key

bp = Blueprint("authorization", __name__)

PUBLIC = {"health.show_health", "health.alive", "health.ready"}
PUBLIC_ON_LOOPBACK = {"metrics.show_metrics"}  # a local Prometheus needs no key
ADMIN = {"models.load", "models.unload", "decisions.show_decisions"}
STATE_CHANGING = {"models.load", "models.unload"}


@bp.before_app_request
def authorize_current_request() -> None:
    authorize(current_request())


def authorize(request: IncomingRequest) -> None:
    """Accept the request, and set its key. Raises InvalidApiKey, NotAllowed or InvalidRequest."""
    try:
        _check(request, request.settings.access_policy)
    except ProxyError as problem:
        name = request.key.name if request.key else None
        details = f"endpoint={request.endpoint or None} key={name}"
        request.services.refusals.note(problem, request.client_address, time.monotonic(), details)
        raise


def is_anonymous(request: IncomingRequest) -> bool:
    """Whether only a PUBLIC route accepts the request, whose answer then has no details."""
    policy = request.settings.access_policy
    return request.key is None if policy.keys else not _is_trusted_host(request.header("Host"), policy)


def find_model(request: IncomingRequest, name: str) -> Model:
    """The model of that name, if the request's key may use it. Raises ModelNotFound or NotAllowed."""
    return check_access(request, request.services.catalog.find(name))


def check_access(request: IncomingRequest, model: Model) -> Model:
    """The model, if the request's key may use it. Raises NotAllowed."""
    key = request.key
    assert key or not request.settings.access_policy.keys, "no route for a model is public where there are keys"
    if key and not may_use(key, model):
        raise NotAllowed(f"the key {key.name!r} may not use {model.name}; its `models` setting lists what it may use")
    return model


def servable_model(request: IncomingRequest, name: str) -> Model:
    """As find_model, and its header is valid. Raises InvalidModelFile too.

    The files of a model that is loaded are not read.
    """
    model = find_model(request, name)
    if _is_loaded(request, model) and not model.problem:
        return model
    return request.services.catalog.servable(model)


def _is_loaded(request: IncomingRequest, model: Model) -> bool:
    """Whether it has a server, loading or loaded."""
    server = request.services.store.pool.server_of(model.name)
    return server is not None and server.state is not ServerState.STOPPING and server.model.is_served_as(model)


def visible_models(request: IncomingRequest) -> list[Model]:
    """The models that the request's key may use."""
    models = request.services.catalog.models()
    return [model for model in models if request.key is None or may_use(request.key, model)]


def may_use(key: ApiKey, model: Model) -> bool:
    """By the names under which the model is listed, whichever was requested: a key may use what it sees."""
    return key.allows(model.name, *model.aliases)


def _check(request: IncomingRequest, policy: AccessPolicy) -> None:
    has_explicit_key = False
    if policy.keys:
        has_explicit_key = _find_key(request, policy.keys)
        _check_key(request)
    elif policy.loopback_only:
        _check_origin(request, policy)
    if request.endpoint in STATE_CHANGING and not has_explicit_key and request.mimetype != "application/json":
        raise InvalidRequest('this route requires a key, or -H "Content-Type: application/json"')


def _find_key(request: IncomingRequest, keys: tuple[ApiKey, ...]) -> bool:
    """Set the request's key. True if the client sent it explicitly; a browser repeats passwords unasked."""
    for credentials in _credentials(request):
        if key := matching_key(keys, credentials.key):
            request.key = key
            return credentials.is_explicit
    return False


def _credentials(request: IncomingRequest) -> list[Credentials]:
    return credentials_offered(_decoded(request.header("Authorization")), _decoded(request.header("X-Api-Key")))


def _decoded(header: str) -> str:
    """A key that is not ASCII was typed as UTF-8."""
    return header.encode("latin-1").decode("utf-8", "surrogateescape")


def _check_key(request: IncomingRequest) -> None:
    if request.key is None and request.endpoint not in PUBLIC and not _is_public_on_loopback(request):
        raise InvalidApiKey(
            has_credentials=bool(_credentials(request)), is_browser=request.endpoint == "status.show_status"
        )
    if request.endpoint in ADMIN and request.key and not request.key.admin:
        raise NotAllowed(f"the key {request.key.name!r} may not do this; it needs `admin: true`")


def _check_origin(request: IncomingRequest, policy: AccessPolicy) -> None:
    """Reject a web page, which may use a host name of its own that resolves to this machine, or post to any address."""
    host, method = request.header("Host"), request.method
    origin = "" if method in ("GET", "HEAD", "OPTIONS") else request.header("Origin").lower()
    if request.endpoint not in PUBLIC and not _is_trusted_host(host, policy):
        raise NotAllowed(
            f"the Host {host[:200]!r} is not this machine; to accept that name, configure keys or server.allow_open"
        )
    scheme, _, origin_host = origin.partition("://")
    # A page in a sandboxed frame has the origin null, and may post what a form may: any page can make one.
    is_sandboxed = origin == "null" and request.mimetype != "application/json"
    if is_sandboxed or (scheme in ("http", "https") and not is_loopback(origin_host)):
        raise NotAllowed(f"a web page of {origin[:200]!r} may not use this service without a key; configure keys")


def _is_trusted_host(host: str, policy: AccessPolicy) -> bool:
    return not policy.loopback_only or not host or is_loopback(host) or host == policy.host


def _is_public_on_loopback(request: IncomingRequest) -> bool:
    """A request of this machine, and not one that a local proxy forwards."""
    is_forwarded = any(request.has(name) for name in ("X-Forwarded-For", "Forwarded", "X-Real-Ip", "Via"))
    is_local = is_loopback(request.client_address) and is_loopback(request.header("Host"))
    return request.endpoint in PUBLIC_ON_LOOPBACK and not request.arguments("model") and is_local and not is_forwarded
