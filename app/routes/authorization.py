"""Authorization: who may send which request. Checked before a route runs, so before a body is read.

With keys, every route requires one except those in PUBLIC, and those in ADMIN require an admin's. Without keys, whoever
reaches the address may do everything: the service listens on loopback only then, and must still be out of reach for web
pages that a browser on this machine has open. Their requests are recognized by Host and Origin, and by content types
that a page may send to any site. Pages of `server.cors_origins` may do everything but change the service's state.

A key that came by Basic may be one that a browser remembers and adds to requests of any page: it counts only if the
headers that browsers send tell of no other site.
"""

from __future__ import annotations

import time

from flask import Blueprint

from app.entities.key import ApiKey
from app.errors import InvalidApiKey, InvalidRequest, NotAllowed, ProxyError
from app.routes.incoming_request import IncomingRequest, current_request
from app.routes.paths import changes_engine
from app.services import AccessPolicy
from app.use_cases.credentials import (
    Credentials,
    credentials_offered,
    is_from_another_site,
    is_loopback,
    matching_key,
)

bp = Blueprint("authorization", __name__)

PUBLIC = {
    *("health.show_health", "health.alive", "health.ready"),
    *("status.answer_probe", "assets.show_asset", "llama_swap.redirect_to_page"),
}
PUBLIC_ON_LOOPBACK = {"metrics.show_metrics", "metrics.list_targets"}  # a local Prometheus needs no key
WANTS_JSON = {  # or a key: no form has that type
    *("models.load", "models.unload", "pins.pin", "pins.unpin"),
    "configuration.reload_configuration",
    *("downloads.pull_model", "downloads.pull_like_router"),
}
# What a key without `admin` may order, if the settings allow it.
PULLING = {"downloads.pull_model", "downloads.pull_like_router", "ollama.pull"}
DELETING = {"downloads.remove_model", "downloads.remove_like_router", "ollama.delete"}
UNLOADING = {"llama_swap.unload_by_get", "llama_swap.unload_all", "llama_swap.unload_one"}
# A GET by which a page changes something: to HTTP addresses other than loopback, browsers tell nothing of the page.
NEEDS_EXPLICIT_KEY = {"llama_swap.unload_by_get"}
STATE_CHANGING = WANTS_JSON | UNLOADING | PULLING | DELETING | {"upstream.forward_upstream"}
LOGS = {"logs.show_logs", "logs.stream_service_log", "logs.stream_engine_log"}
ADMIN = {*(STATE_CHANGING - PULLING), *LOGS, "decisions.show_decisions"}
ALL_MODELS = {"configuration.reload_configuration"}  # a key that does not see them all may not do this
PAGES = {"status.show_status", "upstream.forward_upstream"}  # a browser asks its user for a key
SCANNING = {"models.list_models", "models.show_model"}  # with ?reload=1


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


def may_unload(request: IncomingRequest) -> bool:
    """Whether an option of an inference request may have its model unloaded: with a key an admin's; without keys no
    page of another site, not even of `server.cors_origins`."""
    if request.key is not None:
        return request.key.admin
    return not _is_foreign_page(request, request.settings.access_policy)


def is_anonymous(request: IncomingRequest) -> bool:
    """Whether only a PUBLIC route accepts the request, whose answer then has no details."""
    policy = request.settings.access_policy
    return request.key is None if policy.keys else not _is_trusted_host(request.header("Host"), policy)


def _check(request: IncomingRequest, policy: AccessPolicy) -> None:
    if policy.keys:
        request.key = _find_key(request, policy)
        _check_key(request, policy)
        return
    if policy.loopback_only:
        _check_origin(request, policy)
    if _changes_state(request) and _is_foreign_page(request, policy):
        raise NotAllowed("a web page of another site may not do this without a key; configure keys")
    if request.endpoint in WANTS_JSON and request.mimetype != "application/json":
        raise InvalidRequest('this route requires a key, or -H "Content-Type: application/json"')


def _find_key(request: IncomingRequest, policy: AccessPolicy) -> ApiKey | None:
    """The key that the request was sent with; one that a browser may have added for a page of another site is none."""
    counts_by_itself = not _may_be_for_another_site(request, policy) or _follows_link_to_page(request)
    for credentials in _credentials(request):
        if (credentials.is_explicit or counts_by_itself) and (key := matching_key(policy.keys, credentials.key)):
            return key
    return None


def _may_be_for_another_site(request: IncomingRequest, policy: AccessPolicy) -> bool:
    if request.endpoint in NEEDS_EXPLICIT_KEY and not request.header("Sec-Fetch-Site"):
        return True
    return _is_from_another_site(request, policy)


def _is_from_another_site(request: IncomingRequest, policy: AccessPolicy) -> bool:
    site, origin, host = map(request.header, ("Sec-Fetch-Site", "Origin", "Host"))
    return bool(site or origin) and is_from_another_site(site, origin, host, policy.public_origin)


def _follows_link_to_page(request: IncomingRequest) -> bool:
    """A link in a wiki may open the status page: it changes nothing, and only the browser's user sees it."""
    is_navigation = request.header("Sec-Fetch-Mode") == "navigate" and request.header("Sec-Fetch-Dest") == "document"
    return request.endpoint == "status.show_status" and request.method == "GET" and is_navigation


def _is_foreign_page(request: IncomingRequest, policy: AccessPolicy) -> bool:
    """Of another site, and not of this machine."""
    is_local = is_loopback(request.header("Origin").lower().partition("://")[2])
    return _is_from_another_site(request, policy) and not is_local


def _changes_state(request: IncomingRequest) -> bool:
    if request.endpoint in SCANNING and request.wants_scan:
        return True
    return request.endpoint in STATE_CHANGING or changes_engine(request.method, request.path)


def _credentials(request: IncomingRequest) -> list[Credentials]:
    plain = [_decoded(request.header(name)) for name in ("X-Api-Key", "Api-Key")]
    return credentials_offered(_decoded(request.header("Authorization")), plain)


def _decoded(header: str) -> str:
    """A key that is not ASCII was typed as UTF-8."""
    return header.encode("latin-1").decode("utf-8", "surrogateescape")


def _check_key(request: IncomingRequest, policy: AccessPolicy) -> None:
    if request.key is None and request.endpoint not in PUBLIC and not _is_public_on_loopback(request, policy):
        credentials = _credentials(request)
        raise InvalidApiKey(
            has_credentials=bool(credentials),
            is_browser=request.endpoint in PAGES,
            is_remembered=any(not each.is_explicit for each in credentials)
            and _may_be_for_another_site(request, policy),
        )
    if request.endpoint in ALL_MODELS and request.key and request.key.is_limited:
        raise NotAllowed(f'the key {request.key.name!r} may not do this; it needs `admin: true` and `models: ["*"]`')
    needs_admin = request.endpoint in ADMIN or changes_engine(request.method, request.path)
    if needs_admin and request.key and not request.key.admin:
        raise NotAllowed(f"the key {request.key.name!r} may not do this; it needs `admin: true`")


def _check_origin(request: IncomingRequest, policy: AccessPolicy) -> None:
    """Reject a web page, which may use a host name of its own that resolves to this machine, or post to any address."""
    host, method = request.header("Host"), request.method
    origin = "" if method in ("GET", "HEAD", "OPTIONS") else request.header("Origin").lower()
    origin = "" if policy.allows_page(origin) else origin
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


def _is_public_on_loopback(request: IncomingRequest, policy: AccessPolicy) -> bool:
    """A request of this machine, not one that a local proxy forwards, nor a page of another site (CORS)."""
    is_forwarded = any(request.has(name) for name in ("X-Forwarded-For", "Forwarded", "X-Real-Ip", "Via"))
    is_local = is_loopback(request.client_address) and is_loopback(request.header("Host"))
    is_program = not is_forwarded and not _is_from_another_site(request, policy)
    return request.endpoint in PUBLIC_ON_LOOPBACK and not request.arguments("model") and is_local and is_program
