"""Bodies: any bytes are read or rejected, and what the engine must not be asked for is found in any spelling."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.entities.media_urls import DATA_ONLY
from app.errors import InvalidRequest
from app.request_body.content import BodyFormat, read_content
from app.request_body.json_body import read_json
from tests.fuzz.strategies import ESCAPES, KEYS, corpus, damaged, json_values, spelled

FORM = BodyFormat("multipart/form-data", "b", wants_conversation=True)
JSON = BodyFormat(wants_conversation=True)
URL = "http://127.0.0.1:1/"
FETCHED = [
    {"type": "image_url", "image_url": {"url": URL}}, {"type": "input_image", "image_url": URL},
    {"type": "image", "source": {"type": "url", "url": URL}}, {"type": "input_audio", "input_audio": {"data": URL}},
    {"type": "video_url", "video_url": {"url": URL}},
]  # fmt: skip
BOMBS: list[Any] = [
    {"minItems": 1_000_000}, {"pattern": "(" * 200}, {"minLength": 10**9}, {"enum": ["a"] * 3000},
    {"const": "x" * 5000},
    {"pattern": "((a{1000}){1000}){1000}"}, {"x" * 2000: {}},
]  # fmt: skip


@given(damaged(corpus("bodies.txt")) | st.binary(max_size=64), st.sampled_from([JSON, FORM]))
def test_any_bytes_are_read_or_rejected(body: bytes, form: BodyFormat):
    try:
        content = read_content(body, form)
    except InvalidRequest as error:
        assert str(error)
        return
    assert len(content.names) <= 1 and all(len(name) <= 514 for name in content.names)


@given(damaged(corpus("bodies.txt")))
def test_a_body_that_is_accepted_means_one_thing(body: bytes):
    """Another parser, which takes the last of equal members, finds the same model; and none finds a second."""
    try:
        names = read_content(body, JSON).names
    except InvalidRequest:
        return
    value = json.loads(body)
    assert ([value["model"]] if "model" in value else []) == [*names]


# How to wrap a value, again and again: in an array, or as an object's member.
WRAPPERS = st.lists(st.none() | st.sampled_from(KEYS), max_size=6)
NEIGHBORS = st.lists(json_values(), min_size=1, max_size=2)
PLACES = st.tuples(WRAPPERS, NEIGHBORS)
MEDIA_MEMBERS = st.sampled_from(["messages", "input", "content", "documents", "prompt", "x"])
SCHEMA_MEMBERS = st.sampled_from(["json_schema", "response_format", "tools", "functions", "text"])


def inside(planted: Any, place: tuple[list[str | None], list[Any]]) -> Any:
    """A JSON value that has `planted` somewhere."""
    wrappers, neighbors = place
    value = planted
    for wrapper in wrappers:
        value = [*neighbors, value] if wrapper is None else {"neighbor": neighbors[0], wrapper: value}
    return value


@given(PLACES, ESCAPES, st.sampled_from(FETCHED), MEDIA_MEMBERS)
def test_a_url_to_fetch_is_found_anywhere(place: tuple[Any, Any], every: int, part: dict[str, Any], member: str):
    body = spelled({"model": "m", member: inside(part, place)}, every)
    with pytest.raises(InvalidRequest, match=r"upstream\.media_urls") as rejected:
        read_json(body, DATA_ONLY, may_be_a_list=False)
    assert str(rejected.value.param).startswith(member)


@given(PLACES, ESCAPES, st.sampled_from(BOMBS), SCHEMA_MEMBERS)
def test_a_bomb_is_found_anywhere(place: tuple[Any, Any], every: int, bomb: dict[str, Any], member: str):
    body = spelled({"model": "m", member: inside(bomb, place)}, every)
    with pytest.raises(InvalidRequest) as rejected:
        read_json(body, DATA_ONLY, may_be_a_list=False)
    assert str(rejected.value.param).startswith(member)


@given(ESCAPES, json_values())
def test_without_them_a_body_passes(every: int, value: Any):
    body = spelled({"model": "m", "messages": value, "tools": value, "json_schema": value}, every)
    assert dict(read_json(body, DATA_ONLY, may_be_a_list=False))["model"] == "m"
