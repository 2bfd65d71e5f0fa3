"""What lists of models tell their clients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from app.entities.capabilities import Capabilities, HeaderFacts, Media
from app.entities.model import Model
from app.entities.placement import PlacementConstraints
from app.use_cases.reporting.model_list import anthropic_list, model_list, request_tokens
from app.use_cases.scheduling.limits import SchedulingLimits
from app.use_cases.scheduling.pool_state import PoolState
from tests.helpers.builders import a_launch, a_model


def hidden(model: Model) -> None:
    """The engines, for a reader who may not see them."""


EMPTY = PoolState(SchedulingLimits())
FACTS = HeaderFacts("qwen3", 600_000_000, "Q4_K_M", 40960, 1024, 151_936, 400_000_000)
CHAT = Capabilities(completion=True, chat=True, tools=True, vision=True)


def known(name: str = "a", capabilities: Capabilities = CHAT, **changes: Any) -> Model:
    return replace(a_model(name), facts=FACTS, capabilities=capabilities, **changes)


def entry(model: Model) -> dict[str, Any]:
    (found,) = model_list([model], EMPTY, (), hidden)["data"]  # type: ignore[misc, var-annotated]
    return found  # type: ignore[no-any-return]


def test_an_entry_has_context_size_and_capabilities_under_the_names_that_clients_read():
    found = entry(known(launch=a_launch(ctx_size=16384), media=frozenset({Media.IMAGE})))
    assert [found[key] for key in ("context_length", "max_context_length", "max_model_len")] == [16384] * 3
    assert found["capabilities"] == ["completion", "chat", "tools", "vision"]
    assert found["supported_parameters"] == ["tools", "tool_choice"]
    assert found["architecture"] == {"input_modalities": ["text", "image"], "output_modalities": ["text"]}
    assert found["meta"] == {
        "n_ctx": 16384,
        "n_ctx_train": 40960,
        "n_embd": 1024,
        "n_vocab": 151_936,
        "n_params": 600_000_000,
        "size": 400_000_000,
        "ftype": "Q4_K_M",
        "architecture": "qwen3",
    }


def test_of_an_unread_header_only_what_is_known_is_told():
    found = entry(replace(a_model(), constraints=PlacementConstraints(has_auto_context=True)))
    assert found["meta"] == {"size": found["size"]}
    assert not {"capabilities", "supported_parameters", "context_length"} & set(found)
    assert found["architecture"] == {"input_modalities": ["text"], "output_modalities": ["text"]}


@pytest.mark.parametrize(
    ("capabilities", "output"),
    [(Capabilities(embedding=True), ["embeddings"]), (Capabilities(rerank=True), ["rerank"]), (Capabilities(), [])],
)
def test_models_that_do_not_chat_say_so(capabilities: Capabilities, output: list[str]):
    assert entry(known(capabilities=capabilities))["architecture"]["output_modalities"] == output


@pytest.mark.parametrize(
    ("ctx_size", "unified", "auto", "earlier", "tokens"),
    [
        (16384, True, False, 0, 16384),
        (16384, False, False, 0, 8192),  # of two slots
        (65536, True, False, 0, 40960),  # a slot has no more than the training context
        (4096, True, True, 0, 40960),  # the most that it may get
        (4096, True, True, 8192, 8192),  # what it had, and will have again
        (4096, True, False, 8192, 4096),
    ],
)
def test_the_context_is_what_one_request_can_use(ctx_size: int, unified: bool, auto: bool, earlier: int, tokens: int):
    launch = a_launch(ctx_size=ctx_size, kv_unified=unified, parallel=2)
    model = known(launch=launch, constraints=PlacementConstraints(has_auto_context=auto))
    assert request_tokens(model, None, earlier) == tokens


def test_anthropics_list_has_the_models_that_generate_text():
    models = [known("a", launch=a_launch(ctx_size=8192)), known("b", Capabilities(embedding=True)), a_model("c")]
    found: dict[str, Any] = anthropic_list(models, EMPTY, ())
    assert (found["first_id"], found["last_id"], found["has_more"]) == ("a", "c", False)
    assert found["data"][0] == {
        "type": "model",
        "id": "a",
        "display_name": "a",
        "created_at": "2023-11-14T22:13:20Z",
        "max_input_tokens": 8192,
        "max_tokens": 8192,
    }
    assert anthropic_list([], EMPTY, ())["first_id"] is None


def test_aliases_are_ids_of_their_own_if_wanted_and_globs_never():
    models = [known(aliases=("gpt-4o", "claude-*")), known("b")]
    listed: Any = model_list(models, EMPTY, (), hidden)["data"]
    assert [entry["id"] for entry in listed] == ["a", "b"]
    listed = model_list(models, EMPTY, (), hidden, with_aliases=True)["data"]
    assert [entry["id"] for entry in listed] == ["a", "gpt-4o", "b"]
    assert listed[1] == {**listed[0], "id": "gpt-4o", "aliases": [], "parent": "a"}
    anthropic: Any = anthropic_list(models, EMPTY, (), with_aliases=True)["data"]
    assert [entry["id"] for entry in anthropic] == ["a", "gpt-4o", "b"]


def test_a_virtual_name_is_listed_with_the_entry_of_the_model_that_would_answer():
    a, b = known(problem="truncated"), known("b")
    listed: Any = model_list([a, b], EMPTY, (), hidden, virtual_names={"fast": [a, b]})["data"]
    assert listed[2] == {**listed[1], "id": "fast", "aliases": [], "any_of": ["a", "b"]}
    anthropic: Any = anthropic_list([b], EMPTY, (), virtual_names={"fast": [a, b]})["data"]
    assert [entry["id"] for entry in anthropic] == ["b", "fast"]
