"""Who may send which request: requests of browsers and of programs, with and without keys."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from app.entities.key import ApiKey
from app.errors import ProxyError
from app.routes.authorization import authorize, may_unload
from app.routes.incoming_request import IncomingRequest
from app.routes.key_limits import permitted_keep_alive
from app.services import AccessPolicy, RequestSettings

FORWARD, LIST, PAGE, LOAD = "inference.forward", "models.list_models", "status.show_status", "models.load"
CHAT = ("POST", "/v1/chat/completions", FORWARD)
ENGINE_SETTINGS = [
    ("POST", "/lora-adapters", FORWARD),
    ("POST", "//lora-adapters", ""),
    ("POST", "/props", FORWARD),
    ("POST", "/slots/0", FORWARD),
]
SCAN = ("GET", "/v1/models?reload=1", LIST)
SCANS = [SCAN, ("GET", "/models?reload=1", LIST), ("GET", "/v1/models/m?reload=1", "models.show_model")]
UPSTREAM = ("GET", "/upstream/m/", "upstream.forward_upstream")  # it loads the model
UNLOAD = ("POST", "/api/models/unload", "llama_swap.unload_all")
MUTATING = [("POST", "/models/load", LOAD), *ENGINE_SETTINGS, *SCANS, UPSTREAM, UNLOAD]


def hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


KEYS = (
    ApiKey("user", hashed("u")),
    ApiKey("ops", hashed("o"), admin=True),
    ApiKey("team", hashed("t"), admin=True, models=("team-*",)),
)
WITH_KEYS = AccessPolicy(KEYS, public_origin="https://llm.example.org")
LOOPBACK, OPEN = AccessPolicy(), AccessPolicy(host="0.0.0.0", loopback_only=False)


def basic(password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"me:{password}".encode()).decode()}


def refusal(policy: AccessPolicy, what: tuple[str, str, str], headers: dict[str, str]) -> tuple[int, str]:
    """Status and code of the refusal; (200, "") of a request that is accepted."""
    error = refused_with(policy, what, headers)
    return (error.status, error.code) if error else (200, "")


def refused_with(policy: AccessPolicy, what: tuple[str, str, str], headers: dict[str, str]) -> ProxyError | None:
    method, address, endpoint = what
    path, _, query = address.partition("?")
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query}
    environ |= {"REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "localhost:8080", "CONTENT_TYPE": "application/json"}
    for name, value in headers.items():
        variable = name.upper().replace("-", "_")
        environ[variable if name == "Content-Type" else f"HTTP_{variable}"] = value
    refusals = SimpleNamespace(note=lambda *refusal: None)
    services: Any = SimpleNamespace(settings=RequestSettings(access_policy=policy), refusals=refusals)
    try:
        authorize(IncomingRequest(environ, services, endpoint))
    except ProxyError as error:
        return error
    return None


OK, NO_KEY, FORBIDDEN = (200, ""), (401, "invalid_api_key"), (403, "not_allowed")

OWN_PAGE_OR_NO_BROWSER = [
    {},
    {"Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "none"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost:8080"},
    {"Origin": "http://localhost:8080"},
    {"Origin": "HTTP://LOCALHOST:8080"},
    {"Origin": "https://llm.example.org"},
    {"Origin": "https://llm.example", "Host": "llm.example"},
]
ANOTHER_SITE = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost:8080"},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:3000"},
    {"Origin": "http://localhost:8080.evil.example"},
    {"Origin": "https://llm.example.org.evil.example"},
    {"Origin": "https://llm.example.org:8443"},
    {"Origin": "file://"},
    {"Origin": "http://"},
]


@pytest.mark.parametrize("headers", OWN_PAGE_OR_NO_BROWSER, ids=str)
def test_a_key_by_basic_counts_in_full_for_programs_and_our_own_pages(headers: dict[str, str]):
    """`curl -u me:KEY` could not unload a model, because its content type is that of a form."""
    for form in ({}, {"Content-Type": "application/x-www-form-urlencoded"}):
        for what in (CHAT, *MUTATING):
            assert refusal(WITH_KEYS, what, basic("o") | headers | form) == OK


@pytest.mark.parametrize("headers", ANOTHER_SITE, ids=str)
def test_a_key_by_basic_counts_for_nothing_from_another_site(headers: dict[str, str]):
    """A browser adds the password it remembers to whatever a page sends: a foreign page erased slots with it."""
    for what in (CHAT, SCAN, ("GET", "/v1/models", LIST), ("GET", "/", PAGE), *MUTATING):
        assert refusal(WITH_KEYS, what, basic("o") | headers) == NO_KEY


@pytest.mark.parametrize("headers", ANOTHER_SITE, ids=str)
def test_a_key_that_the_client_sent_itself_counts_from_anywhere(headers: dict[str, str]):
    for explicit in ({"Authorization": "Bearer o"}, {"X-Api-Key": "o"}, basic("u") | {"X-Api-Key": "o"}):
        assert refusal(WITH_KEYS, ("POST", "/models/load", LOAD), explicit | headers) == OK


def test_unloading_by_get_takes_a_key_that_no_browser_has_added():
    """<img src="http://llm.example:8080/unload">: to an address without HTTPS, browsers say nothing of the page."""
    get = ("GET", "/unload", "llama_swap.unload_by_get")
    assert refusal(WITH_KEYS, get, basic("o")) == refusal(WITH_KEYS, get, basic("o") | ANOTHER_SITE[0]) == NO_KEY
    for headers in (basic("o") | {"Sec-Fetch-Site": "none"}, {"Authorization": "Bearer o"}, {"X-Api-Key": "o"}):
        assert refusal(WITH_KEYS, get, headers) == OK


@pytest.mark.parametrize(
    ("key", "headers", "may"),
    [
        (None, {}, True),
        (None, {"Origin": "http://localhost:3000"}, True),
        (None, {"Origin": "https://chat.example.org"}, False),
        (None, {"Sec-Fetch-Site": "cross-site"}, False),
        (KEYS[0], {}, False),
        (KEYS[1], {"Origin": "https://chat.example.org"}, True),
    ],
)
def test_who_may_not_unload_a_model_may_not_shorten_its_stay(key: ApiKey | None, headers: dict[str, str], may: bool):
    """A page of server.cors_origins unloaded models by `keep_alive: 0`."""
    environ = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()}
    services: Any = SimpleNamespace(settings=RequestSettings(access_policy=LOOPBACK))
    request = IncomingRequest({"REQUEST_METHOD": "POST", "HTTP_HOST": "localhost:8080"} | environ, services, FORWARD)
    request.key = key
    assert may_unload(request) == may
    assert permitted_keep_alive(request, 0.0, ttl_seconds=900.0) == (0.0 if may else None)
    assert permitted_keep_alive(request, 3600.0, ttl_seconds=900.0) == 3600.0


def test_the_refusal_of_a_remembered_password_says_so():
    error = refused_with(WITH_KEYS, CHAT, basic("o") | {"Sec-Fetch-Site": "cross-site"})
    assert "a browser remembers does not count for a page of another site" in str(error)
    assert "unknown API key" in str(refused_with(WITH_KEYS, CHAT, basic("wrong")))
    assert "requires an API key" in str(refused_with(WITH_KEYS, CHAT, {"Sec-Fetch-Site": "cross-site"}))


def test_a_link_on_another_site_opens_the_status_page_and_nothing_else():
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert refusal(WITH_KEYS, ("GET", "/", PAGE), basic("u") | link) == OK
    assert refusal(WITH_KEYS, ("GET", "/", PAGE), basic("u") | link | {"Sec-Fetch-Dest": "iframe"}) == NO_KEY
    assert refusal(WITH_KEYS, SCAN, basic("u") | link) == NO_KEY


@pytest.mark.parametrize("what", [("POST", "/models/load", LOAD), *ENGINE_SETTINGS], ids=str)
def test_what_changes_a_model_for_everybody_takes_an_admins_key(what: tuple[str, str, str]):
    assert refusal(WITH_KEYS, what, {"Authorization": "Bearer u"}) == FORBIDDEN
    assert refusal(WITH_KEYS, what, {"Authorization": "Bearer o"}) == OK
    assert refusal(LOOPBACK, what, {}) == OK


def test_a_reload_takes_an_admins_key_that_sees_all_models():
    """Its answer, and the errors of the file, name models."""
    reload = ("POST", "/admin/reload", "configuration.reload_configuration")
    assert refusal(WITH_KEYS, reload, {"Authorization": "Bearer t"}) == FORBIDDEN
    assert refusal(WITH_KEYS, reload, {"Authorization": "Bearer o"}) == OK
    assert refusal(WITH_KEYS, ("POST", "/models/load", LOAD), {"Authorization": "Bearer t"}) == OK


@pytest.mark.parametrize("what", [("GET", "/metrics", "metrics.show_metrics"), ("GET", "/sd", "metrics.list_targets")])
def test_a_page_of_another_site_needs_a_key_for_the_metrics_of_this_machine(what: tuple[str, str, str]):
    """With `cors_origins: ["*"]` any page could read the names of models and keys from the browser's own machine."""
    assert refusal(WITH_KEYS, what, {}) == refusal(WITH_KEYS, what, {"Sec-Fetch-Site": "none"}) == OK
    for page in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert refusal(WITH_KEYS, what, page) == NO_KEY
        assert refusal(WITH_KEYS, what, page | {"Authorization": "Bearer u"}) == OK


def test_reading_what_an_engine_does_takes_any_key():
    for path in ("/slots?model=m", "/lora-adapters?model=m", "/props?model=m"):
        assert refusal(WITH_KEYS, ("GET", path, FORWARD), {"Authorization": "Bearer u"}) == OK


@pytest.mark.parametrize("what", SCANS, ids=str)
@pytest.mark.parametrize("policy", [LOOPBACK, OPEN], ids=["loopback", "open"])
def test_a_picture_in_a_foreign_page_starts_no_scan(policy: AccessPolicy, what: tuple[str, str, str]):
    """<img src="http://127.0.0.1:8080/v1/models?reload=1">"""
    assert refusal(policy, what, {"Sec-Fetch-Site": "cross-site"}) == FORBIDDEN
    assert refusal(policy, what, {"Origin": "http://evil.example"}) == FORBIDDEN
    assert refusal(policy, what, {}) == refusal(policy, what, {"Sec-Fetch-Site": "none"}) == OK
    assert refusal(policy, ("GET", "/v1/models", LIST), {"Sec-Fetch-Site": "cross-site"}) == OK


@pytest.mark.parametrize("what", [("POST", "/models/load", LOAD), *ENGINE_SETTINGS], ids=str)
def test_a_foreign_page_changes_nothing_in_a_service_that_is_open(what: tuple[str, str, str]):
    assert refusal(OPEN, what, {"Origin": "http://evil.example"}) == FORBIDDEN
    assert refusal(OPEN, what, {}) == OK


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_without_keys_a_foreign_page_may_use_no_method_but_those_that_read(method: str):
    foreign = {"Origin": "http://evil.example"}
    assert refusal(LOOPBACK, (method, "/v1/anything", ""), foreign) == FORBIDDEN
    assert refusal(LOOPBACK, (method, "/v1/anything", ""), {"Origin": "http://localhost:3000"}) == OK
    for reading in ("GET", "HEAD", "OPTIONS"):
        assert refusal(LOOPBACK, (reading, "/v1/models", LIST), foreign) == OK


ALLOWED_PAGE = {"Origin": "https://chat.example.org", "Sec-Fetch-Site": "cross-site"}


@pytest.mark.parametrize("origins", [{"https://chat.example.org"}, {"*"}], ids=str)
def test_an_allowed_page_may_do_without_keys_what_changes_nothing_for_others(origins: set[str]):
    """With a key, an admin's page may do the rest, too: what a page sends itself it knows."""
    for policy in (replace(LOOPBACK, cors_origins=frozenset(origins)), replace(OPEN, cors_origins=frozenset(origins))):
        assert refusal(policy, CHAT, ALLOWED_PAGE) == OK
        assert refusal(policy, ("GET", "/v1/models", LIST), ALLOWED_PAGE) == OK
        for what in MUTATING:
            assert refusal(policy, what, ALLOWED_PAGE) == FORBIDDEN
    with_keys = replace(WITH_KEYS, cors_origins=frozenset(origins))
    for what in MUTATING:
        assert refusal(with_keys, what, ALLOWED_PAGE | {"Authorization": "Bearer o"}) == OK


def test_an_allowed_page_does_not_use_the_password_that_a_browser_remembers():
    for origins in ({"https://chat.example.org"}, {"*"}):
        assert refusal(replace(WITH_KEYS, cors_origins=frozenset(origins)), CHAT, basic("o") | ALLOWED_PAGE) == NO_KEY


def test_a_page_under_a_name_of_its_own_stays_out_whatever_its_origin():
    """DNS rebinding: the name resolves to this machine."""
    for origins in ({"http://evil.example"}, {"*"}):
        policy = replace(LOOPBACK, cors_origins=frozenset(origins))
        assert refusal(policy, CHAT, {"Host": "evil.example", "Origin": "http://evil.example"}) == FORBIDDEN
    listed = replace(LOOPBACK, cors_origins=frozenset({"https://chat.example.org"}))
    assert refusal(listed, CHAT, {"Origin": "http://evil.example"}) == FORBIDDEN
    assert refusal(listed, CHAT, {"Origin": "null", "Content-Type": "text/plain"}) == FORBIDDEN
