"""Ollama's requests, as llama-server gets them."""

from __future__ import annotations

import contextlib
import json
import random
from typing import Any

import pytest

from app.use_cases.ollama.requests import engine_request
from app.use_cases.ollama.translation import CHAT, COMPLETION, EMBEDDINGS, INFILL, Api, NotTranslatable, Translation

HI = [{"role": "user", "content": "Hi"}]


def body_of(api: Api, **request: Any) -> dict[str, Any]:
    return engine_request(api, {"model": "m", **request}).body


def chat(**request: Any) -> dict[str, Any]:
    """The fields that the request's own fields became."""
    body = body_of(Api.CHAT, messages=HI, **request)
    return {name: value for name, value in body.items() if name not in ("model", "messages", "stream")}


def test_a_chat_streams_unless_it_says_otherwise():
    whole = {"model": "m", "messages": HI, "stream": True}
    found = engine_request(Api.CHAT, {"model": "m", "messages": HI})
    assert (found.translation, found.body) == (Translation(Api.CHAT, CHAT, streams=True), whole)
    for value, streams in ((None, True), (True, True), (False, False)):
        assert body_of(Api.CHAT, messages=HI, stream=value)["stream"] is streams


def test_sampling_options_have_the_engines_names():
    same = {"temperature": 0, "top_k": 1, "top_p": 0.5, "min_p": 0.1, "typical_p": 1, "seed": 7, "stop": ["x"]}
    same |= {"repeat_penalty": 1.1, "repeat_last_n": 64, "presence_penalty": 1, "frequency_penalty": 2}
    same |= {"mirostat": 2, "mirostat_tau": 5, "mirostat_eta": 0.1}
    assert chat(options=same | {"num_predict": 9, "num_keep": 4}) == same | {"max_tokens": 9, "n_keep": 4}


@pytest.mark.parametrize("tokens", [-1, -2])
def test_a_negative_num_predict_is_no_limit(tokens: int):
    assert chat(options={"num_predict": tokens}) == {"max_tokens": -1}
    assert body_of(Api.GENERATE, prompt="x", raw=True, options={"num_predict": tokens})["max_tokens"] == -1


def test_a_negative_repeat_last_n_is_the_whole_context():
    """llama-server rejects it."""
    assert chat(options={"repeat_last_n": -1}) == {"repeat_last_n": 262_144}


def test_an_option_without_a_value_is_no_option():
    assert chat(options={"temperature": None, "num_gpu": None}, format=None, think=None, keep_alive=None) == {}
    assert chat(options=None, format="") == {}


def test_options_without_a_counterpart_are_ignored_and_named():
    found = engine_request(Api.CHAT, {"messages": HI, "options": {"num_gpu": 1, "tfs_z": 1, "num_ctx": 5, "seed": 1}})
    assert found.translation.ignored == ("num_gpu", "tfs_z")
    many = {f"{number:03d}" + "x" * 1000: 1 for number in range(1000)}
    assert sum(map(len, engine_request(Api.CHAT, {"messages": HI, "options": many}).translation.ignored)) <= 1024


def test_what_the_proxy_reads_keeps_its_meaning():
    assert chat(keep_alive="5m", options={"num_ctx": 4096}) == {"keep_alive": "5m", "num_ctx": 4096}
    assert chat(keep_alive=0) == {"keep_alive": 0}


@pytest.mark.parametrize(
    ("think", "arguments"),
    [
        (True, {"enable_thinking": True}),
        (False, {"enable_thinking": False}),
        ("high", {"enable_thinking": True, "reasoning_effort": "high"}),
    ],
)
def test_think_is_an_argument_of_the_chat_template(think: object, arguments: dict[str, object]):
    assert chat(think=think) == {"chat_template_kwargs": arguments}
    assert body_of(Api.GENERATE, prompt="x", think=think)["chat_template_kwargs"] == arguments
    for api, request in ((Api.CHAT, {"messages": HI}), (Api.GENERATE, {"prompt": "x"})):
        assert engine_request(api, {**request, "think": think}).translation.thinks is arguments["enable_thinking"]


def test_a_format_is_json_or_a_schema():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert chat(format="json") == {"response_format": {"type": "json_object"}}
    wrapped = {"name": "format", "schema": schema}
    assert chat(format=schema) == {"response_format": {"type": "json_schema", "json_schema": wrapped}}
    assert body_of(Api.GENERATE, prompt="x", raw=True, format=schema)["json_schema"] == schema
    assert body_of(Api.GENERATE, prompt="x", raw=True, format="json")["json_schema"] == {"type": "object"}


def test_log_probabilities_are_requested_by_the_name_that_the_route_knows():
    assert chat(logprobs=True, top_logprobs=3) == {"logprobs": True, "top_logprobs": 3}
    assert chat(logprobs=False, top_logprobs=3) == {}
    assert body_of(Api.GENERATE, prompt="x", raw=True, logprobs=True)["n_probs"] == 1


def test_tools_go_on_as_they_are():
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    assert chat(tools=tools) == {"tools": tools}
    assert chat(tools=[]) == {}


def test_images_become_urls_in_front_of_the_text():
    png, jpeg, other = "iVBORw0KGgoAAAA", "/9j/4AAQ", "AAAA"
    (message,) = body_of(Api.CHAT, messages=[{"role": "user", "content": "What?", "images": [png, jpeg, other]}])[
        "messages"
    ]
    urls = [f"data:image/png;base64,{png}", f"data:image/jpeg;base64,{jpeg}", f"data:image/jpeg;base64,{other}"]
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    assert message == {"role": "user", "content": [*parts, {"type": "text", "text": "What?"}]}
    assert body_of(Api.GENERATE, prompt="What?", images=[png, jpeg, other])["messages"] == [message]


@pytest.mark.parametrize("image", ["http://10.0.0.1/a.png", "file:///etc/passwd", "https://x/data:image"])
def test_an_image_is_never_an_address(image: str):
    """llama-server would fetch it."""
    (message,) = body_of(Api.CHAT, messages=[{"role": "user", "content": "", "images": [image]}])["messages"]
    assert message["content"][0]["image_url"]["url"] == f"data:image/jpeg;base64,{image}"


def test_tool_calls_and_their_results_get_ids():
    def call(name: str, **arguments: object) -> dict[str, Any]:
        return {"function": {"name": name, "arguments": arguments}}

    messages = [
        {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call("f", a=1), call("g"), call("f")]},
        {"role": "tool", "content": "g's", "tool_name": "g"},
        {"role": "tool", "content": "first f's", "tool_name": "f"},
        {"role": "tool", "content": "second f's"},
        {"role": "tool", "content": "whose?", "tool_name": "h"},
    ]
    first, *results = body_of(Api.CHAT, messages=messages)["messages"]
    assert first["reasoning_content"] == "hm"
    ids = [each["id"] for each in first["tool_calls"]]
    assert [each["function"] for each in first["tool_calls"]] == [
        {"name": "f", "arguments": json.dumps({"a": 1})},
        {"name": "g", "arguments": "{}"},
        {"name": "f", "arguments": "{}"},
    ]
    assert len(set(ids)) == 3 and all(len(each) == 9 and each.isalnum() for each in ids)
    assert [result["tool_call_id"] for result in results[:3]] == [ids[1], ids[0], ids[2]]
    assert results[3]["tool_call_id"] not in ids and results[3]["name"] == "h"


def test_given_ids_of_tool_calls_are_kept():
    messages = [
        {"role": "assistant", "tool_calls": [{"id": "x", "function": {"name": "f", "arguments": '{"a": 1}'}}]},
        {"role": "tool", "content": "1", "tool_call_id": "x"},
    ]
    first, result = body_of(Api.CHAT, messages=messages)["messages"]
    function = {"name": "f", "arguments": '{"a": 1}'}
    assert first["tool_calls"] == [{"id": "x", "type": "function", "function": function}]
    assert (first["content"], result["tool_call_id"]) == ("", "x")


def test_a_prompt_is_a_chat():
    found = engine_request(Api.GENERATE, {"prompt": "Hi", "system": "Be brief.", "template": "x"})
    assert (found.translation.path, found.translation.ignored) == (CHAT, ("template",))
    assert found.body["messages"] == [{"role": "system", "content": "Be brief."}, *HI]


def test_a_raw_prompt_gets_no_template():
    found = engine_request(Api.GENERATE, {"prompt": "[INST] Hi", "raw": True, "stream": False})
    assert (found.translation, found.body) == (
        Translation(Api.GENERATE, COMPLETION),
        {"prompt": "[INST] Hi", "stream": False},
    )


def test_a_prompt_with_a_suffix_is_filled_in():
    found = engine_request(Api.GENERATE, {"prompt": "def f(", "suffix": "return", "raw": True})
    assert (found.translation.path, found.body["input_prefix"], found.body["input_suffix"]) == (
        *(INFILL, "def f(", "return"),
    )


@pytest.mark.parametrize(
    ("api", "request_"),
    [
        (Api.CHAT, {"messages": []}),
        (Api.CHAT, {}),
        (Api.GENERATE, {"prompt": ""}),
        (Api.GENERATE, {}),
        (Api.EMBED, {"input": []}),
        (Api.EMBED, {"input": ""}),
        (Api.EMBEDDINGS, {}),
    ],
)
def test_a_request_without_a_prompt_only_loads(api: Api, request_: dict[str, Any]):
    found = engine_request(api, {"model": "m", "keep_alive": 0, **request_})
    assert (found.translation, found.body) == (Translation(api), {"model": "m", "keep_alive": 0})


def test_both_routes_for_embeddings_send_a_list_of_inputs():
    found = engine_request(Api.EMBED, {"model": "m", "input": ["a", "b"], "dimensions": 2, "truncate": True})
    assert found.translation == Translation(Api.EMBED, EMBEDDINGS, dimensions=2)
    assert found.body == {"model": "m", "input": ["a", "b"]}
    assert body_of(Api.EMBED, input="a") == body_of(Api.EMBEDDINGS, prompt="a") == {"model": "m", "input": ["a"]}


@pytest.mark.parametrize(
    ("api", "request_", "param"),
    [
        (Api.CHAT, {"messages": "Hi"}, "messages"),
        (Api.CHAT, {"messages": ["Hi"]}, "messages[0]"),
        (Api.CHAT, {"messages": [{"role": "user", "images": "x"}]}, "messages[0]"),
        (Api.CHAT, {"messages": [{"role": "user", "images": [1]}]}, "messages[0]"),
        (Api.CHAT, {"messages": [{"role": "assistant", "tool_calls": {"a": 1}}]}, "messages[0].tool_calls"),
        (Api.CHAT, {"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0]"),
        (Api.CHAT, {"messages": HI, "options": [1]}, "options"),
        (Api.CHAT, {"messages": HI, "stream": "no"}, "stream"),
        (Api.CHAT, {"messages": HI, "format": "xml"}, "format"),
        (Api.CHAT, {"messages": HI, "think": "hard"}, "think"),
        (Api.GENERATE, {"prompt": 5}, "prompt"),
        (Api.GENERATE, {"prompt": "x", "context": [1, 2]}, "context"),
        (Api.GENERATE, {"prompt": "x", "raw": True, "system": "y"}, "system"),
        (Api.GENERATE, {"prompt": "x", "raw": True, "images": ["y"]}, "images"),
        (Api.EMBED, {"input": 5}, "input"),
        (Api.EMBED, {"input": [[1, 2]]}, "input"),
        (Api.EMBED, {"input": "x", "dimensions": "2"}, "dimensions"),
    ],
)
def test_what_has_no_meaning_is_rejected(api: Api, request_: dict[str, Any], param: str):
    with pytest.raises(NotTranslatable) as raised:
        engine_request(api, {"model": "m", **request_})
    assert raised.value.param == param


COMPLETE: dict[Api, dict[str, Any]] = {
    Api.CHAT: {
        "model": "m",
        "messages": [
            {"role": "user", "content": "Hi", "images": ["AAAA"]},
            {"role": "assistant", "thinking": "x", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
            {"role": "tool", "tool_name": "f", "content": "1"},
        ],
        "options": {"num_predict": 1, "num_ctx": 1, "repeat_last_n": 1, "stop": ["x"], "num_gpu": 1},
        "tools": [],
        "format": {},
        "think": True,
        "keep_alive": 1,
        "stream": True,
        "logprobs": True,
        "top_logprobs": 1,
    },
    Api.GENERATE: {
        "model": "m",
        "prompt": "x",
        "suffix": "",
        "system": "y",
        "template": "z",
        "raw": False,
        "context": [],
        "images": ["AAAA"],
        "options": {"num_predict": 1},
        "logprobs": True,
        "top_logprobs": 1,
    },
    Api.EMBED: {"model": "m", "input": ["x"], "dimensions": 1, "options": {}},
    Api.EMBEDDINGS: {"model": "m", "prompt": "x"},
}
ODD = (None, True, 0, -1, 1.5, "", "x", [], ["x"], [[]], {}, {"a": [1]}, [{}], [None])


def damaged(value: Any, draw: random.Random) -> Any:
    """The value with one place in it replaced, or removed."""
    if not isinstance(value, dict | list) or not value or draw.random() < 0.2:
        return draw.choice(ODD)
    copied: Any = value.copy()
    place = draw.choice(list(value)) if isinstance(value, dict) else draw.randrange(len(value))
    copied[place] = damaged(value[place], draw)
    return copied


@pytest.mark.parametrize("api", Api)
def test_whatever_is_in_a_request_it_is_translated_or_rejected(api: Api, seed: int):
    draw = random.Random(seed)
    for _ in range(2000):
        request = COMPLETE[api]
        for _ in range(draw.randint(1, 3)):
            request = {**request, **(found if isinstance(found := damaged(request, draw), dict) else {})}
        with contextlib.suppress(NotTranslatable):
            json.dumps(engine_request(api, request).body)
