"""Rules for the bodies of requests, applied to the text of a body."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.entities.request_rules import RequestRules
from app.errors import InvalidRequest
from app.request_body.content import BodyContent, BodyFormat, read_content
from app.request_body.rewriting import rewritten

CHAT = "/v1/chat/completions"
FORM = BodyFormat(is_named=True)
NAMES = ["a", "b", "é", "a\\b", '"', "\U0001f600", "x y", ""]
SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Hello"}


def after(body: str | bytes, path: str = CHAT, **rules: Any) -> Any:
    return json.loads(text_after(body, path, **rules))


def text_after(body: str | bytes, path: str = CHAT, **rules: Any) -> bytes:
    data = body if isinstance(body, bytes) else body.encode()
    strip = frozenset(rules.pop("strip", ()))
    return rewritten(data, RequestRules(strip=strip, **rules), path, FORM)[0]


def test_fields_are_stripped_then_filled_in_then_set():
    body = '{"temperature": 2, "top_k": 1, "top_p": null, "seed": 5}'
    rules = {"strip": ["top_k"], "default": {"top_k": 20, "top_p": 0.9, "seed": 1}, "set": {"temperature": 0.6}}
    assert after(body, **rules) == {"temperature": 0.6, "top_k": 20, "top_p": 0.9, "seed": 5}


def test_maps_are_merged_into_the_objects_of_the_body():
    body = '{"kwargs": {"thinking": true, "tone": "dry", "deep": {"x": 1}}}'
    rules = {"set": {"kwargs": {"thinking": False, "deep": {"y": 2}}}, "default": {"kwargs": {"tone": "", "more": 1}}}
    assert after(body, **rules) == {
        "kwargs": {"thinking": False, "tone": "dry", "deep": {"x": 1, "y": 2}, "more": 1},
    }


def test_a_map_replaces_what_is_no_object_and_a_default_does_not():
    assert after('{"a": [1]}', set={"a": {"x": 1}}) == {"a": {"x": 1}}
    assert after('{"a": [1]}', default={"a": {"x": 1}}) == {"a": [1]}


def test_an_empty_list_of_adapters_is_none_of_them():
    default, none = {"lora": [{"id": 0, "scale": 1.0}]}, {"lora": [{"id": 0, "scale": 0}]}
    assert after('{"lora": [ ]}', default=default) == after("{}", default=default, set={"lora": []}) == none
    assert after('{"lora": null}', default=default) == default
    assert after('{"lora": []}', default={"x": 1}) == {"lora": [], "x": 1}


def test_what_no_rule_mentions_keeps_its_bytes():
    kept = b'{ "\\u00e9" : 1.10e+2,"s":"\\u0041\\/\xc3\xa9","n":123456789012345678901234567890 , "o":{"b" :1, "a":2.0}}'
    for part in (b"1.10e+2", b'"\\u0041\\/\xc3\xa9"', b"123456789012345678901234567890", b'{"b" :1, "a":2.0}'):
        assert part in text_after(kept, set={"x": 1}, strip=["y"])


def test_a_client_cannot_evade_a_rule_by_another_spelling_of_a_name():
    assert after('{"temp\\u0065rature": 2, "temperature": 3}', strip=["temperature"]) == {}
    assert after('{"temp\\u0065rature": 2}', set={"temperature": 1}) == {"temperature": 1}
    assert after('{"\\u00e9": 2, "é": 3}', set={"é": 1}) == {"é": 1}


def test_of_fields_with_one_name_the_last_one_counts_as_for_the_engine():
    assert text_after('{"a": {"x": 1}, "b": 1, "a": {"y": 2}}', set={"a": {"z": 3}}) == b'{"a":{"y":2,"z":3},"b":1}'
    assert after('{"a": 1, "a": null}', default={"a": 5}) == {"a": 5}


@pytest.mark.parametrize("body", ["[]", '[{"id": 0}]', " [1]"])
def test_a_list_has_no_fields(body: str):
    assert text_after(body, set={"a": 1}) == body.encode()


def test_a_body_that_breaks_a_bound_by_the_rules_is_rejected():
    """The bounds are those of the body that the engine gets, whoever asked for what is in it."""
    half = {"type": "array", "minItems": 6000}
    body = json.dumps({"json_schema": {"properties": {"a": half}}})
    assert after(body, set={"x": 1})
    with pytest.raises(InvalidRequest, match="minItems"):
        after(body, set={"json_schema": {"properties": {"b": half}}})


def test_the_options_are_those_of_the_new_body():
    new, content = rewritten(
        b'{"keep_alive": "1h", "num_ctx": 5}', RequestRules(strip=frozenset(["num_ctx"])), CHAT, FORM
    )
    assert content == BodyContent(keep_alive_seconds=3600.0) == read_content(new, FORM)


class TestSystemPrompt:
    """`system_prompt` stands for wherever the API has it."""

    def test_it_is_put_before_the_messages(self):
        assert after(json.dumps({"messages": [USER]}), set={"system_prompt": "Be brief."}) == {
            "messages": [SYSTEM, USER]
        }
        assert after('{"messages": [ ]}', set={"system_prompt": "Be brief."}) == {"messages": [SYSTEM]}

    @pytest.mark.parametrize("role", ["system", "developer"])
    def test_set_replaces_that_of_the_client(self, role: str):
        messages = [{"role": role, "content": "x"}, {"role": role, "content": [{"type": "text"}]}, USER, SYSTEM]
        body = json.dumps({"messages": messages}, indent=2)
        assert after(body, set={"system_prompt": "Be brief."}) == {"messages": [SYSTEM, USER, SYSTEM]}

    def test_default_leaves_that_of_the_client(self):
        body = json.dumps({"messages": [{"role": "system", "content": "x"}, USER]})
        assert after(body, default={"system_prompt": "Be brief."}) == json.loads(body)
        assert after(json.dumps({"messages": [USER]}), default={"system_prompt": "Be brief."}) == {
            "messages": [SYSTEM, USER]
        }

    def test_strip_removes_that_of_the_client(self):
        assert after(json.dumps({"messages": [SYSTEM, USER]}), strip=["system_prompt"]) == {"messages": [USER]}
        assert after(json.dumps({"messages": [SYSTEM]}), strip=["system_prompt"]) == {"messages": []}

    @pytest.mark.parametrize(
        ("path", "field"),
        [("/v1/messages", "system"), ("/v1/messages/count_tokens", "system"), ("/v1/responses", "instructions")],
    )
    def test_anthropics_and_openais_newer_api_have_a_field_for_it(self, path: str, field: str):
        body = json.dumps({"messages": [USER], field: "x"})
        assert after(body, path, set={"system_prompt": "Be brief."}) == {"messages": [USER], field: "Be brief."}
        assert after(body, path, default={"system_prompt": "y"}) == json.loads(body)
        assert after(body, path, strip=["system_prompt"]) == {"messages": [USER]}

    def test_a_prompt_without_messages_has_none(self):
        assert after('{"prompt": "Once"}', set={"system_prompt": "Be brief."}) == {"prompt": "Once"}


# --- whatever the input ------------------------------------------------------------------------------------

CHARACTERS = 'aé"\\\u2028\x7f\x01\n/ {}[],:😀'
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(st.sampled_from(CHARACTERS), max_size=8)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
)
OBJECTS = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6)


def expected(body: dict[str, Any], rules: RequestRules) -> dict[str, Any]:
    """The same on objects."""
    found = {name: value for name, value in body.items() if name not in rules.strip}
    for name, value in rules.default.items():
        if found.get(name) is None:
            found[name] = value
        elif isinstance(value, dict) and isinstance(found[name], dict):
            found[name] = expected(found[name], RequestRules(default=value))
    for name, value in rules.set.items():
        is_merged = isinstance(value, dict) and isinstance(found.get(name), dict)
        found[name] = expected(found[name], RequestRules(set=value)) if is_merged else value
    return found


@given(OBJECTS, OBJECTS, OBJECTS, st.frozensets(st.sampled_from(NAMES)), st.booleans(), st.sampled_from([None, 1]))
@settings(deadline=None)
def test_whatever_the_body_and_the_rules_say_the_new_body_is_the_expected_object(
    body: dict[str, Any],
    to_set: dict[str, Any],
    default: dict[str, Any],
    strip: frozenset[str],
    ascii: bool,
    indent: int,
):
    text = json.dumps(body, ensure_ascii=ascii, indent=indent).encode(errors="surrogatepass" if ascii else "replace")
    body = json.loads(text)
    rules = RequestRules(to_set, default, strip)
    new, _ = rewritten(text, rules, CHAT, FORM)
    assert json.loads(new) == expected(body, rules)


ROLES = st.sampled_from(["system", "developer", "user", "assistant"])
MESSAGES = st.lists(st.fixed_dictionaries({"role": ROLES, "content": VALUES}) | VALUES, max_size=4)


@given(MESSAGES, st.sampled_from([None, 1]))
@settings(deadline=None)
def test_whatever_the_messages_are_only_the_system_prompt_changes(messages: list[Any], indent: int | None):
    body = json.dumps({"messages": messages}, indent=indent)
    others = list(messages)
    while others and isinstance(others[0], dict) and others[0].get("role") in ("system", "developer"):
        del others[0]
    assert after(body, set={"system_prompt": "Be brief."}) == {"messages": [SYSTEM, *others]}
    assert after(body, strip=["system_prompt"]) == {"messages": others}
