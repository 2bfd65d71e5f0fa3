"""Paths: which are understood, which load a model, and what the client of any other is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.errors import InvalidRequest, ModelUnloaded, NotFound, ProxyError
from app.routes.incoming_request import IncomingRequest
from app.routes.loading_rules import may_load, model_for
from app.routes.paths import GET_ROUTES, OTHER_PATH, POST_ROUTES, hint, plain_path
from app.routes.requested_model import read_request
from app.services import RequestSettings
from tests.helpers.scripted_peers import NO_PEERS
from tests.routes.test_visibility import LIMITED, Catalog


def a_request(method: str = "POST", path: str = "/v1/completions", query: str = "", **settings: Any) -> IncomingRequest:
    services: Any = SimpleNamespace(
        catalog=Catalog(),
        peers=NO_PEERS,
        settings=RequestSettings(**settings),
        store=SimpleNamespace(pool=SimpleNamespace(server_of=lambda name: None)),
    )
    return IncomingRequest({"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query}, services, "")


@pytest.mark.parametrize("route", [*POST_ROUTES, *GET_ROUTES, "/", "/health", "/v1/models", "/models/user/repo:Q8_0"])
def test_a_path_means_the_same_with_slashes_around_it(route: str):
    for path in (route, f"{route}/", f"/{route}", f"//{route}//"):
        assert plain_path(path) == route


def test_slashes_within_a_path_and_below_upstream_stay():
    for path in ("/v1//models", "/upstream/m/", "/upstream/m/_app/"):
        assert plain_path(path) == path


@pytest.mark.parametrize("path", ["/props", "/slots", "/health", "/tokenize", "/infill", "/lora-adapters"])
def test_a_base_url_that_ends_in_v1_reaches_the_routes_that_are_not_below_it(path: str):
    assert plain_path(f"/v1{path}") == plain_path(f"/v1{path}/") == path


@pytest.mark.parametrize("path", ["/v1", "/v1/models", "/v1/slots/0", "/v1/tools", "/v1/v1/props", "/v2/props"])
def test_no_other_path_loses_its_version(path: str):
    assert plain_path(path) == path


def test_inference_routes_load_their_model():
    assert all(may_load(a_request(path=path), path) for path in POST_ROUTES)


@pytest.mark.parametrize(("query", "loads"), [("", True), ("autoload=true", True), ("autoload=1&x=2", True),
                                              ("autoload=false", False), ("autoload=0", False),
                                              ("autoload=true&autoload=false", False)])  # fmt: skip
def test_autoload_says_whether_a_request_may_load_its_model(query: str, loads: bool):
    assert may_load(a_request(query=query), "/v1/completions") is loads


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_get_loads_nothing_whatever_it_says(method: str):
    assert not may_load(a_request(method, "/props", "autoload=true", load_on_any_path=True), "/props")


def test_any_other_path_loads_nothing_unless_the_configuration_says_so():
    for method in ("POST", "PUT", "DELETE"):
        assert not may_load(a_request(method, "/v1/images/generations", "autoload=true"), OTHER_PATH)
        assert may_load(a_request(method, "/v1/images/generations", load_on_any_path=True), OTHER_PATH)


def test_what_may_not_be_loaded_is_told_how_to_load_it():
    def told(request: IncomingRequest, route: str) -> ProxyError:
        with pytest.raises(ProxyError) as raised:
            model_for(request, route, "mine", loads=False)
        return raised.value

    other = told(a_request(path="/v1/moderations"), OTHER_PATH)
    assert isinstance(other, NotFound)
    assert str(other).startswith("no such path: POST /v1/moderations (")
    assert "mine is not loaded; POST /models/load loads it" in str(other)
    known = told(a_request(query="autoload=false"), "/v1/completions")
    assert isinstance(known, ModelUnloaded)
    assert str(known) == "mine is not loaded, and autoload=false forbids loading it; POST /models/load loads it"


def test_paths_that_no_engine_has_are_explained():
    assert "already ends in /v1" in hint("/v1/v1/chat/completions")
    assert "OpenAI's API is at /v1" in hint("/api/v0/models")
    assert "GET /v1/models lists" in hint("/v1")
    assert hint("/v1/audio/speech") == hint("/apis") == ""


def body_that_names(name: str) -> Any:
    content = SimpleNamespace(names=(name,), streams=False, keep_alive_seconds=None, num_ctx=None, conversation=None,
                              prompts=1, repeated_bytes=0, media=(), requires_tool=False,
                              offers_tools=False)  # fmt: skip

    class Body:
        def __len__(self) -> int:
            return 1

        def content(self, form: object) -> object:
            return content

    return Body()


def test_address_and_body_may_name_one_model_by_two_of_its_names():
    request = a_request(query="model=hidden-alias")
    assert read_request(request, cast(Any, body_that_names("secret"))).model == "secret"
    with pytest.raises(InvalidRequest, match="different models"):
        read_request(request, cast(Any, body_that_names("mine")))
    with pytest.raises(InvalidRequest, match="different models"):
        read_request(request, cast(Any, body_that_names("nope")))


def test_two_names_of_a_model_that_the_key_may_not_use_are_as_different_as_any():
    request = a_request(query="model=hidden-alias")
    request.key = LIMITED
    with pytest.raises(InvalidRequest, match="different models"):
        read_request(request, cast(Any, body_that_names("secret")))
