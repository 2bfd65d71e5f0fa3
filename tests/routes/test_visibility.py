"""What a key that is limited to some models may see."""

from __future__ import annotations

from types import MappingProxyType, SimpleNamespace
from typing import Any, cast

import pytest

from app.entities.capabilities import Capabilities, HeaderFacts
from app.entities.key import ApiKey
from app.entities.placement import Decision, Outcome
from app.entities.request_rules import RequestRules
from app.errors import InsufficientVram, ModelNotFound
from app.routes.incoming_request import IncomingRequest
from app.routes.visibility import (
    alternatives,
    default_model,
    find_model,
    virtual_names,
    visible_decisions,
    visible_error,
    visible_models,
    visible_pool,
    visible_text,
)
from app.services import RequestSettings
from app.use_cases.reporting.decision_record import DecisionRecord
from app.use_cases.requirements import Capability, Requirements
from tests.helpers.builders import Play, a_model, replace
from tests.helpers.scripted_peers import NO_PEERS

MODELS = [
    a_model("mine"),
    a_model("mine-too"),
    replace(a_model("secret"), aliases=("hidden-alias",), variants={"hidden-variant": RequestRules()}),
    a_model("min"),
    a_model("a+b"),
]
LIMITED = ApiKey("limited", "", models=("mine*",))


class Catalog:
    knows_replicas = False
    rescans = 0

    def __init__(self) -> None:
        self.headers_read: list[str] = []

    def models(self) -> list[Any]:
        return MODELS

    def find(self, name: str, may_use: Any = bool) -> Any:
        for model in MODELS:
            if name in model.names and may_use(model):
                return model
        raise ModelNotFound(name)

    virtual_names: Any = MappingProxyType({"fast": ("secret", "mine"), "hidden-fast": ("secret", "gone")})

    def members(self, name: str) -> tuple[str, ...]:
        return self.virtual_names.get(name, ())

    def read_headers(self, models: list[Any], seconds: float) -> list[Any]:
        self.headers_read += [model.name for model in models]
        return [replace(model, facts=HeaderFacts(), capabilities=Capabilities(completion=True)) for model in models]

    def rescan(self) -> bool:
        self.rescans += 1
        return False


def a_request(key: ApiKey | None, pool: Any = None, decisions: tuple[DecisionRecord, ...] = ()) -> IncomingRequest:
    store = SimpleNamespace(pool=pool or Play().state, decisions=decisions)
    services: Any = SimpleNamespace(settings=RequestSettings(), catalog=Catalog(), store=store, peers=NO_PEERS)
    request = IncomingRequest({"REQUEST_METHOD": "GET"}, services, "")
    request.key = key
    return request


def test_a_name_below_a_glob_of_the_keys_own_does_not_tell_whether_others_have_it(monkeypatch: pytest.MonkeyPatch):
    """The catch-all alias of one model answered with 404 to the names of the hidden ones."""
    catch_all = replace(a_model("mine"), aliases=("*",))
    found = {"secret": a_model("secret"), "hidden-alias": a_model("secret")}

    def find(catalog: Catalog, name: str, may_use: Any = bool) -> Any:
        return next(filter(may_use, (found.get(name, catch_all), catch_all)))

    monkeypatch.setattr(Catalog, "find", find)
    request = a_request(LIMITED)
    assert {find_model(request, name).name for name in ("secret", "hidden-alias", "nowhere")} == {"mine"}
    assert find_model(a_request(None), "secret").name == "secret"


def test_models_of_others_are_not_found_under_any_name():
    request = a_request(LIMITED)
    assert [model.name for model in visible_models(request)] == ["mine", "mine-too"]
    for count, name in enumerate(("secret", "hidden-alias", "hidden-variant", "nowhere"), 1):
        with pytest.raises(ModelNotFound) as refused:
            find_model(request, name)
        assert str(refused.value) == str(ModelNotFound(name))
        assert request.services.catalog.rescans == count, "or the time tells which names others have"
    assert find_model(a_request(ApiKey("all", "")), "hidden-alias").name == "secret"


def test_only_visible_names_are_suggested():
    for key, name, hint in (
        (LIMITED, "mine-to", "did you mean mine-too or mine? "),
        (LIMITED, "secre", ""),
        (LIMITED, "secret", ""),
        (None, "secre", "did you mean secret? "),
        (None, "hidden_alias", "did you mean hidden-alias or hidden-fast? "),
    ):
        with pytest.raises(ModelNotFound) as refused:
            find_model(a_request(key), name)
        assert str(refused.value) == f"model {name!r} not found; {hint}GET /v1/models lists the names"


@pytest.mark.parametrize(
    ("configured", "models", "default"),
    [
        (None, ("mine*",), ""),
        (None, ("min",), "min"),
        ("hidden-alias", ("*",), "hidden-alias"),
        ("hidden-alias", ("min",), "min"),
        ("hidden-alias", ("mine*",), ""),
        ("gone", ("min",), "min"),
    ],
)
def test_a_request_that_names_none_is_for_a_model_that_its_key_may_use(
    configured: str | None, models: tuple[str, ...], default: str
):
    request = a_request(ApiKey("k", "", models=models))
    request.settings = replace(RequestSettings(), default_model=configured)
    assert default_model(request) == default


def test_a_virtual_name_stands_for_the_models_that_the_key_may_use():
    assert list(map(names_of, map(a_request, (LIMITED, None)))) == [
        {"fast": ["mine"]},
        {"fast": ["secret", "mine"], "hidden-fast": ["secret"]},
    ]
    named_like_it = a_request(ApiKey("k", "", models=("fast", "hidden-fast")))
    assert names_of(named_like_it) == {} and alternatives(named_like_it, "fast") == []
    with pytest.raises(ModelNotFound):
        find_model(named_like_it, "fast")


def test_headers_are_read_where_they_decide_which_model_answers():
    for name, requirements, read in (
        ("fast", Requirements(), []),
        ("fast", Requirements(Capability.COMPLETION), ["secret", "mine"]),
        ("hidden-fast", Requirements(Capability.COMPLETION), []),
    ):
        request = a_request(None)
        assert alternatives(request, name, requirements)
        assert cast(Any, request.services.catalog).headers_read == read


def test_a_virtual_name_of_broken_models_is_not_listed(monkeypatch: pytest.MonkeyPatch):
    broken = [replace(model, problem="is damaged") if model.name == "secret" else model for model in MODELS]
    monkeypatch.setattr(Catalog, "find", lambda self, name: next((m for m in broken if name in m.names), None))
    monkeypatch.setattr(Catalog, "virtual_names", {"fast": ("secret", "mine"), "hidden-fast": ("secret",)})
    assert names_of(a_request(None)) == {"fast": ["secret", "mine"]}


def test_the_default_model_may_be_a_virtual_name():
    for key, default in ((LIMITED, "fast"), (ApiKey("k", "", models=("min",)), "min")):
        request = a_request(key)
        request.settings = replace(RequestSettings(), default_model="fast")
        assert default_model(request) == default


def names_of(request: IncomingRequest) -> dict[str, list[str]]:
    return {name: [model.name for model in models] for name, models in virtual_names(request).items()}


def test_a_broken_model_is_no_default(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Catalog, "models", lambda _: [a_model("good"), replace(a_model("bad"), problem="truncated")])
    assert default_model(a_request(None)) == "good"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("waiting for secret to become idle", "waiting for another model to become idle"),
        ("evict secret, mine and hidden-alias", "evict another model, mine and another model"),
        ("hidden-variant is another name", "another model is another name"),
        ("mine-too is not mine", "mine-too is not mine"),
        ("min; minimum", "another model; minimum"),
        ("models.a+b.pin", "models.another model.pin"),
        ("12 MiB free", "12 MiB free"),
    ],
)
def test_texts_do_not_name_models_of_others(text: str, shown: str):
    assert visible_text(a_request(LIMITED), text) == shown
    assert visible_text(a_request(None), text) == visible_text(a_request(ApiKey("all", "")), text) == text


def test_decisions_about_other_models_are_not_listed_nor_named():
    def about(model: str) -> DecisionRecord:
        decision = Decision(Outcome.WAIT, "waiting for secret", 0, considered=("secret is busy",))
        return DecisionRecord(0.0, model, decision, ("secret",), 1.0, 0.0)

    (record,) = visible_decisions(a_request(LIMITED, decisions=(about("mine"), about("secret"))))
    assert (record.model, record.decision.reason, record.evict) == (
        "mine",
        "waiting for another model",
        ("another model",),
    )
    assert record.decision.considered == ("another model is busy",)
    assert len(visible_decisions(a_request(None, decisions=(about("mine"), about("secret"))))) == 2


def test_servers_and_waiting_requests_of_other_models_are_not_counted():
    play = Play()
    for name in ("mine", "secret"):
        play.ask(a_model(name, slots=1))
        play.ask(a_model(name, slots=1))
    pool = visible_pool(a_request(LIMITED, play.state))
    assert [server.model.name for server in pool.servers] == ["mine"]
    assert {waiter.model.name for waiter in pool.waiting} == {"mine"}
    assert visible_pool(a_request(None, play.state)) is play.state


def test_an_error_about_memory_does_not_name_models_of_others():
    error = InsufficientVram("mine: pinned models are not evicted: secret")
    assert str(visible_error(a_request(LIMITED), error)) == "mine: pinned models are not evicted: another model"
    unknown = ModelNotFound("secret")
    assert str(visible_error(a_request(LIMITED), unknown)) == str(ModelNotFound("secret")), "as for any other name"
