"""Requests of one conversation are known by what they all begin with, or by what the client calls it."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from app.request_body.options import opening_hash
from app.routes.incoming_request import IncomingRequest
from app.routes.requested_model import read_request
from app.services import RequestSettings
from workers.request_bodies.held_body import RequestBodies

BODIES = RequestBodies(2**24, 2**24)
SYSTEM = {"role": "system", "content": "You are kind."}
FIRST = {"role": "user", "content": [{"type": "text", "text": "Hello!"}]}
MORE = [{"role": "assistant", "content": "Hi."}, {"role": "user", "content": "And now?"}]


class Catalogue:
    knows_replicas = True

    def has_replicas(self, name: str) -> bool:
        return name == "several"


def conversation(body: dict[str, Any], model: str = "several", **headers: str) -> int | None:
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/v1/chat/completions", "CONTENT_TYPE": "application/json"}
    services: Any = SimpleNamespace(catalog=Catalogue(), settings=RequestSettings())
    request = IncomingRequest(environ | headers, services, "")
    data = json.dumps({"model": model, **body}).encode()
    return read_request(request, BODIES.receive(io.BytesIO(data).read, len(data), "x")).conversation


def test_a_conversation_goes_on_as_it_began():
    begun = conversation({"messages": [SYSTEM, FIRST]})
    assert begun is not None
    assert conversation({"temperature": 1, "messages": [SYSTEM, FIRST, *MORE], "stream": True}) == begun
    assert conversation({"input": [SYSTEM, FIRST, *MORE]}) == begun


@pytest.mark.parametrize(
    "messages", [[FIRST], [SYSTEM, MORE[1]], [{**SYSTEM, "content": "You are rude."}, FIRST], [SYSTEM]]
)
def test_another_beginning_is_another_conversation(messages: list[object]):
    assert conversation({"messages": messages}) not in (None, conversation({"messages": [SYSTEM, FIRST]}))


@pytest.mark.parametrize("name", ["HTTP_X_CONVERSATION_ID", "HTTP_X_SESSION_ID", "HTTP_X_OPENWEBUI_CHAT_ID"])
def test_the_headers_come_first(name: str):
    one = conversation({"messages": [SYSTEM, FIRST]}, **{name: "mine"})
    assert one == conversation({"messages": MORE}, **{name: "mine"})
    assert one != conversation({"messages": [SYSTEM, FIRST]}, **{name: "yours"})


def test_prompt_cache_key_identifies_a_conversation():
    one = conversation({"messages": [SYSTEM], "prompt_cache_key": "k"})
    assert one == conversation({"messages": MORE, "prompt_cache_key": "k"}) != conversation({"messages": [SYSTEM]})


def test_of_a_prompt_the_beginning_counts():
    text = "Once upon a time " * 20
    assert conversation({"prompt": text + "a"}) == conversation({"prompt": text + "b"}) != conversation({"prompt": "x"})


@pytest.mark.parametrize("body", [{}, {"messages": []}, {"messages": "x"}, {"prompt": [1, 2]}, {"prompt_cache_key": 7}])
def test_without_any_of_these_there_is_none(body: dict[str, Any]):
    assert conversation(body) is None


@pytest.mark.parametrize("messages", [[1], [None, FIRST], ["x"], [[["role", "user"]]], [{"role": ["user"]}, 1, "x"]])
def test_odd_messages_cause_no_error(messages: list[object]):
    assert (conversation({"messages": messages}) is not None) is isinstance(messages[0], dict)


def test_requests_for_models_without_replicas_have_none():
    assert conversation({"messages": [SYSTEM, FIRST]}, model="one") is None


def test_a_conversation_of_many_messages_costs_less_than_reading_them():
    """Both hold Python's lock."""
    message = (("role", "system"), ("content", [1.0, "x"]))
    body = json.dumps({"messages": [dict(message)] * 50_000}).encode()

    def seconds(work: Callable[[], object]) -> float:
        began = time.process_time()
        work()
        return time.process_time() - began

    knowing = min(seconds(lambda: opening_hash([("messages", [message] * 50_000)])) for _ in range(5))
    assert knowing < min(seconds(lambda: json.loads(body)) for _ in range(5))


def test_any_json_value_may_begin_a_conversation():
    odd = [[[None, True, 1e300, -0.0, "\ud800", {"": [{}]}]], {"role": ["user"]}]
    begun = conversation({"messages": [{"content": odd}, FIRST]})
    assert begun is not None
    assert conversation({"messages": [{"content": odd}, FIRST, *MORE]}) == begun
