"""Constraints: what a grammar, a schema or a sampler may ask of the engine's memory. The inputs beyond the bounds
took an engine (11549) gigabytes, many seconds or its life; those within are what clients send."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.entities.media_urls import DATA_ONLY
from app.errors import InvalidRequest
from app.request_body.content import BodyFormat, read_content
from app.request_body.json_body import read_json
from app.use_cases.body_checks.constraints import MAX_GRAMMAR, MAX_OPTIONAL
from app.use_cases.body_checks.expansion import Expansion, expand_grammar, expand_pattern
from app.use_cases.body_checks.schemas import MAX_DEPTH, MAX_ENUM_VALUES, MAX_ITEMS, MAX_KEYS, MAX_PATTERN

Schema = dict[str, Any]
INTEGER: Schema = {"type": "integer"}


def rejected(body: dict[str, Any], text: str = "") -> str:
    """Where the body is rejected; "" if it is not."""
    try:
        read_json((text or json.dumps({"model": "m", **body})).encode(), DATA_ONLY, may_be_a_list=False)
    except InvalidRequest as error:
        assert error.param and str(error).startswith(f"{error.param}: ")
        return error.param
    return ""


def schema(value: Schema) -> str:
    return rejected({"json_schema": value})


def tool(parameters: Schema) -> Schema:
    return {"type": "function", "function": {"name": "f", "parameters": parameters}}


def an_object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties}


def array(**bounds: int) -> Schema:
    return {"type": "array", "items": INTEGER, **bounds}


def nested(levels: int, wrap: Any) -> Schema:
    value = INTEGER
    for _ in range(levels):
        value = wrap(value)
    return value


BOMB = array(minItems=1_000_000, maxItems=1_000_000_000)


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"json_schema": BOMB}, "json_schema.minItems"),
        ({"response_format": {"type": "json_object", "schema": BOMB}}, "response_format.schema.minItems"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": an_object(a=BOMB)}}},
         "response_format.json_schema.schema.properties.a.minItems"),
        ({"tools": [tool(INTEGER), tool(BOMB)]}, "tools[1].function.parameters.minItems"),
        ({"tools": [{"name": "f", "input_schema": BOMB}]}, "tools[0].input_schema.minItems"),
        ({"tools": [{"type": "function", "name": "f", "parameters": BOMB}]}, "tools[0].parameters.minItems"),
        ({"text": {"format": {"type": "json_schema", "schema": BOMB}}}, "text.format.schema.minItems"),
        ({"grammar": "root ::= " + "(" * 100_000}, "grammar"),
        ({"repeat_last_n": 10**8}, "repeat_last_n"), ({"dry_penalty_last_n": 2**31 - 1}, "dry_penalty_last_n"),
        ({"n_probs": 10**6}, "n_probs"), ({"top_logprobs": 101}, "top_logprobs"), ({"logprobs": 5000}, "logprobs"),
        ({"dry_sequence_breakers": ["a"] * 10_000}, "dry_sequence_breakers"),
        ({"reasoning_budget_end_tags": ["a"] * 10_000}, "reasoning_budget_end_tags"),
        ({"chat_template_kwargs": {str(i): 1 for i in range(10_000)}}, "chat_template_kwargs"),
        ({"stop": ["a"] * 10_000}, "stop"), ({"samplers": ["top_k"] * 10_000}, "samplers"),
        ({"lora": [{"id": 0, "scale": 10}, {"id": 1, "scale": -1e38}]}, "lora[1].scale"),
        ({"grammar_triggers": [{"type": 0}, {"type": 2, "value": "(" * 100_000}]}, "grammar_triggers[1].type"),
    ],
)  # fmt: skip
def test_what_is_beyond_its_bounds_is_rejected_wherever_it_is(body: dict[str, Any], place: str):
    assert rejected(body) == place


def test_no_spelling_evades():
    """Escapes, and members given twice, of which parsers take the first or the last."""
    bomb = json.dumps(BOMB)
    escaped = bomb.replace("min", r"\u006din")
    for text in (
        r'{"model": "m", "json\u005fschema": ' + escaped + "}",
        '{"model": "m", "json_schema": {}, "json_schema": ' + bomb + ', "json_schema": {}}',
        '{"model": "m", "json_schema": {"minItems": 1, "minItems": 1e6, "minItems": 1}}',
        '{"model": "m", "grammar": "root ::= ' + r"\u0028" * 1000 + '"}',
    ):
        assert rejected({}, text)


def test_a_grammar_in_a_form_has_the_same_bounds():
    """llama-server makes a JSON object of a form's fields, on every route."""
    for grammar in ("(" * 1000, "x" * (5 * MAX_GRAMMAR)):
        part = f'--b\r\nContent-Disposition: form-data; name="grammar"\r\n\r\n{grammar}\r\n--b--\r\n'
        with pytest.raises(InvalidRequest, match="grammar"):
            read_content(part.encode(), BodyFormat("multipart/form-data", "b", is_named=True))


@pytest.mark.parametrize(
    "value",
    [
        nested(MAX_DEPTH, lambda inner: {"not": inner}),
        nested(16, lambda inner: {"type": ["object", "object"], "properties": {"a": inner}}),
        an_object(**{f"p{i}": INTEGER for i in range(MAX_KEYS + 1)}),
        an_object(**{"é" * 20_000: INTEGER}),
        an_object(a=array(maxItems=MAX_ITEMS // 2), b=array(maxItems=MAX_ITEMS // 2 + 1)),
        {"enum": list(range(MAX_ENUM_VALUES + 1))}, {"enum": ["x" * 100_000]}, {"const": "x" * 100_000},
        {"type": "string", "minLength": 10**6},
        an_object(**{f"p{i}": {"type": "string", "maxLength": 2000} for i in range(101)}),
        {"type": "string", "pattern": "a" * (MAX_PATTERN + 1)}, {"type": "string", "pattern": "((a{100}){100}){11}"},
        {"type": "object", "patternProperties": {"(" * 101: INTEGER}},
        {"type": "string", "pattern": "(" * 101}, {"pattern": "a{99999999999999999999}"},
        {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [INTEGER, {"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}}},
        {"$ref": "#/$defs/0", "$defs": {str(i): {"anyOf": [{"$ref": f"#/$defs/{i + 1}"}] * 2} for i in range(40)}},
        {"$ref": "#/$defs/0", "$defs": {str(i): an_object(a={"$ref": f"#/$defs/{i + 1}"}) for i in range(250)}},
        {"$ref": "#/$defs/0", "$defs": {str(i): {"$ref": f"#/$defs/{i + 1}"} for i in range(2000)}},
    ],
)  # fmt: skip
def test_a_schema_that_expands_beyond_its_bounds_is_rejected(value: Schema):
    assert schema(value)
    assert rejected({"tools": [tool(value)]}) or "maxItems" in str(value)  # a tool's maxItems may be large


def test_in_tools_a_maximum_that_the_engine_takes_for_none_passes():
    assert rejected({"tools": [tool(array(maxItems=2**31 - 1))]}) == ""
    assert schema(array(maxItems=2**31 - 1))
    assert schema({"type": "string", "maxLength": 2**31 - 1}) == ""


def test_what_clients_send_passes():
    tree = {"$ref": "#/$defs/t", "$defs": {"t": an_object(c={"type": "array", "items": {"$ref": "#/$defs/t"}})}}
    name = {"type": ["string", "null"], "pattern": r"^[a-z0-9._-]{1,64}@(\w+\.){1,8}[a-z]{2,}$", "maxLength": 254}
    parameters = an_object(name=name, tags=array(maxItems=50), tree=tree, pattern={"type": "string"}, enum=INTEGER)
    deep = nested(20, lambda inner: an_object(a=inner))
    body = {
        "tools": [tool(parameters)] * 100,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": deep}},
        "logprobs": True, "top_logprobs": 20, "stop": "x", "repeat_last_n": -1, "grammar": None, "text": "hi",
    }  # fmt: skip
    assert rejected(body) == ""


def test_a_literal_counts_its_characters_and_a_word_is_one():
    # root 1, "::=" 3, `"ab"` 4 x 3, `[a-z]` 5 x 2, word 1 x 7
    assert expand_grammar('root ::= "ab"{3} [a-z]{2} word{7} # "comment"') == Expansion(33, 0, 0)


@pytest.mark.parametrize(
    ("pattern", "elements", "optional", "depth"),
    [
        ("abc", 3, 0, 0), ("a{5}", 5, 0, 0), ("(ab{3}){10}", 40, 0, 1), ("((a{10}){10}){10}", 1000, 0, 2),
        ("a{2,7}", 7, 0, 0), ("a{0,3}b?", 4, 2, 0), ("(a?){0,10}", 10, 11, 1), (r"\(\{[(]{2}", 4, 0, 0),
        ("a{,}", 1, 1, 0),        (")))", 3, 0, 0), ("(((", 0, 0, 3), ("{9}", 0, 0, 0), ("a{x}", 4, 0, 0),
    ],
)  # fmt: skip
def test_repetitions_are_multiplied(pattern: str, elements: int, optional: int, depth: int):
    assert expand_pattern(pattern) == Expansion(elements, optional, depth)


def test_a_grammar_s_comments_literals_and_classes_hide_nothing():
    deep = "(" * 300
    assert rejected({"grammar": f"root ::= # {deep}\n"}) == rejected({"grammar": f'root ::= "{deep}"'}) == ""
    for hiding in ('# "\n', '"#" ', '[#"] ', r'"\"" ', r'[\]] "x" '):
        assert rejected({"grammar": f"root ::= {hiding}{deep}"}) == "grammar"
    assert rejected({"grammar": "root ::= " + '"a"? ' * (MAX_OPTIONAL + 1)}) == "grammar"
    assert rejected({"grammar": '%llguidance {}\nstart: %json {"minItems": 1000000000}'}) == "grammar"
