"""What no server of a model could answer is rejected before one is started, and nothing else is."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from app.entities.capabilities import Capabilities, HeaderFacts, Media, MediaPart
from app.entities.launch import Task
from app.entities.model import Model
from app.errors import InvalidRequest, NotSupported, ProxyError
from app.request_body.content import BodyContent, BodyFormat, read_content
from app.routes.requested_model import RequestOptions
from app.routes.requirements import check_requirements, requirements_of
from app.use_cases.requirements import suitable
from tests.helpers.builders import a_model

CHAT = Capabilities(completion=True, chat=True)
PLAIN = HeaderFacts(has_chat_template=True)
CODER = replace(PLAIN, has_infill_tokens=True, template_has_tools=True)
ENCODER = HeaderFacts(task=Task.EMBEDDING)
PICTURE = MediaPart(Media.IMAGE, "messages[0].content[1]")


def a_known_model(facts: HeaderFacts = PLAIN, capabilities: Capabilities = CHAT, **more: Any) -> Model:
    model = a_model()
    launch = replace(model.launch, args=more.pop("args", ()), env=more.pop("env", {}))
    return replace(model, facts=facts, capabilities=capabilities, launch=launch, **more)


def problem(route: str, model: Model, **options: Any) -> ProxyError | None:
    try:
        check_requirements(route, model, RequestOptions("a", **options))
    except (NotSupported, InvalidRequest) as error:
        return error
    return None


@pytest.mark.parametrize(
    ("route", "model", "advice"),
    [
        ("/v1/embeddings", a_known_model(), "add --embeddings to its `args`"),
        ("/rerank", a_known_model(), "add --reranking to its `args`"),
        ("/v1/rerank", a_known_model(ENCODER, Capabilities(embedding=True)), "is not a reranker"),
        ("/infill", a_known_model(), "choose a model made for code completion"),
        ("/v1/chat/completions", a_known_model(ENCODER, Capabilities(embedding=True)), "no text: use /v1/embeddings,"),
        ("/v1/messages", a_known_model(ENCODER, Capabilities(embedding=True)), "choose another model"),
    ],
)
def test_what_the_model_lacks_is_501_and_says_what_to_do(route: str, model: Model, advice: str):
    error = problem(route, model)
    assert isinstance(error, NotSupported) and advice in str(error)
    assert error.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("route", "model"),
    [
        ("/v1/embeddings", a_known_model(ENCODER, Capabilities(embedding=True))),
        ("/v1/embeddings", a_known_model(capabilities=Capabilities(rerank=True))),
        ("/v1/rerank", a_known_model(capabilities=Capabilities(rerank=True))),
        ("/infill", a_known_model(CODER)),
        ("/v1/chat/completions", a_known_model()),
        ("/v1/chat/completions", a_known_model(replace(PLAIN, task=Task.EMBEDDING), Capabilities(embedding=True))),
        ("/tokenize", a_known_model(ENCODER, Capabilities(embedding=True))),
        ("_other", a_known_model()),
        ("", a_known_model(ENCODER, Capabilities(embedding=True))),
        ("/v1/embeddings", a_known_model(env={"LLAMA_ARG_EMBEDDINGS": "1"})),
        ("/v1/embeddings", a_model()),
    ],
)
def test_what_a_server_may_do_is_left_to_it(route: str, model: Model):
    assert problem(route, model, media=(), requires_tool=False) is None


def test_a_picture_needs_a_projector_for_pictures():
    error = problem("/v1/chat/completions", a_known_model(), media=(PICTURE,))
    assert isinstance(error, InvalidRequest) and error.param == PICTURE.param
    assert "it has no projector" in str(error) and "`mmproj`" in str(error)
    hears = a_known_model(media=frozenset({Media.AUDIO}))
    assert isinstance(problem("/v1/messages", hears, media=(PICTURE,)), InvalidRequest)
    sees = a_known_model(media=frozenset({Media.IMAGE}))
    configured = a_known_model(args=("--mmproj", "p.gguf"))
    for model in (sees, configured, a_model()):
        assert problem("/v1/chat/completions", model, media=(PICTURE,)) is None


def test_a_required_tool_call_needs_a_template_with_tools():
    error = problem("/v1/chat/completions", a_known_model(), requires_tool=True)
    assert isinstance(error, NotSupported) and error.param == "tool_choice"
    assert "--chat-template-file" in str(error)
    for model in (a_known_model(CODER), a_known_model(args=("--chat-template-file", "t.jinja")), a_model()):
        assert problem("/v1/chat/completions", model, requires_tool=True) is None


def test_a_transcription_needs_a_projector_for_audio():
    error = problem("/v1/audio/transcriptions", a_known_model(media=frozenset({Media.IMAGE})))
    assert isinstance(error, InvalidRequest) and error.param == "file"
    for model in (a_known_model(media=frozenset({Media.AUDIO})), a_model()):
        assert problem("/v1/audio/transcriptions", model) is None


TEXT = a_known_model()
SEES = a_known_model(media=frozenset({Media.IMAGE}))
HEARS = a_known_model(media=frozenset({Media.AUDIO}))
EMBEDS = a_known_model(ENCODER, Capabilities(embedding=True))
EMBEDS_BY_ARGS = a_known_model(capabilities=Capabilities(embedding=True))
RANKS = a_known_model(capabilities=Capabilities(rerank=True))
CALLS = a_known_model(CODER, Capabilities(completion=True, chat=True, tools=True, infill=True))
UNKNOWN = a_model()
BROKEN = replace(UNKNOWN, problem="is damaged")
CHAT_ROUTE = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("route", "options", "models", "chosen"),
    [
        (CHAT_ROUTE, {"media": (PICTURE,)}, [TEXT, SEES, HEARS, UNKNOWN], [SEES, UNKNOWN]),
        ("/v1/audio/transcriptions", {}, [TEXT, SEES, HEARS], [HEARS]),
        ("/v1/embeddings", {}, [TEXT, RANKS, EMBEDS, UNKNOWN], [EMBEDS, UNKNOWN]),
        ("/v1/rerank", {}, [EMBEDS, TEXT, RANKS], [RANKS]),
        ("/infill", {}, [TEXT, CALLS], [CALLS]),
        (CHAT_ROUTE, {}, [EMBEDS, EMBEDS_BY_ARGS, SEES, TEXT], [SEES, TEXT]),
        (CHAT_ROUTE, {"requires_tool": True}, [TEXT, CALLS], [CALLS]),
        (CHAT_ROUTE, {"offers_tools": True}, [TEXT, CALLS, UNKNOWN], [CALLS, UNKNOWN, TEXT]),
        (CHAT_ROUTE, {"media": (PICTURE,)}, [BROKEN, TEXT], [BROKEN, TEXT]),
        (CHAT_ROUTE, {}, [BROKEN, TEXT], [TEXT]),
        ("/tokenize", {"offers_tools": True}, [EMBEDS, TEXT], [EMBEDS, TEXT]),
    ],
)
def test_a_virtual_name_is_answered_by_models_that_can_do_what_the_request_needs(
    route: str, options: dict[str, Any], models: list[Model], chosen: list[Model]
):
    """What is not known counts as able; where none is, the error of one of them says what is missing."""
    models = [replace(model, name=str(number)) for number, model in enumerate(models)]
    found = suitable(models, requirements_of(route, RequestOptions("a", **options)))
    assert [(each.facts, each.capabilities, each.media, each.problem) for each in found] == [
        (each.facts, each.capabilities, each.media, each.problem) for each in chosen
    ]


def content_of(**body: object) -> BodyContent:
    return read_content(json.dumps({"model": "a"} | body).encode(), BodyFormat())


@pytest.mark.parametrize(
    ("place", "part", "media"),
    [
        ("messages", {"type": "image_url", "image_url": {"url": "data:,"}}, Media.IMAGE),
        ("messages", {"type": "image", "source": {"type": "base64", "data": ""}}, Media.IMAGE),
        ("messages", {"type": "input_audio", "input_audio": {"data": ""}}, Media.AUDIO),
        ("input", {"type": "input_image", "image_url": "data:,"}, Media.IMAGE),
    ],
)
def test_media_are_found_in_the_content_of_messages(place: str, part: object, media: Media):
    text = {"type": "text", "text": "What is this?"}
    messages = [{"role": "system", "content": "x"}, {"role": "user", "content": [text, part, part]}]
    assert content_of(**{place: messages}).media == (MediaPart(media, f"{place}[1].content[1]"),)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "image_url"}],
        [{"role": "tool", "content": [{"type": "tool_result", "content": [{"type": "image"}]}]}],
        [[["content", [{"type": "image"}]]]],
        ["image", {"content": [["type", "image"], {"type": ["image"]}]}],
    ],
    ids=["text", "in a tool's result", "a list", "other types"],
)
def test_what_only_looks_like_media_is_none(messages: list[object]):
    assert content_of(messages=messages, tools=[{"type": "image"}]).media == ()


@pytest.mark.parametrize(
    ("choice", "is_required"),
    [
        ("required", True),
        ({"type": "any"}, True),
        ({"type": "tool", "name": "x"}, True),
        ("auto", False),
        ("none", False),
        ({"type": "auto"}, False),
        (["type", "any"], False),
        (None, False),
    ],
)
def test_a_tool_call_is_required_in_openais_and_anthropics_way(choice: object, is_required: bool):
    assert content_of(tool_choice=choice).requires_tool is is_required


@pytest.mark.parametrize(("tools", "are_offered"), [([{"type": "function"}], True), ([], False), (None, False)])
def test_tools_are_offered_where_there_are_some(tools: object, are_offered: bool):
    assert content_of(tools=tools).offers_tools is are_offered
