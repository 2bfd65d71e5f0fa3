"""Answers in the form of llama-server's (b11549) as Ollama's objects."""

from __future__ import annotations

from typing import Any

import pytest

from app.use_cases.ollama.answers import StreamTranslator, error_object, first_values, loaded_object, whole_object
from app.use_cases.ollama.translation import CHAT, COMPLETION, Api, Translation

TIMINGS = {"cache_n": 24, "prompt_n": 1, "prompt_ms": 4.515, "predicted_n": 3, "predicted_ms": 1.415}
COUNTS = {"prompt_eval_count": 25, "prompt_eval_duration": 4_515_000, "eval_count": 3, "eval_duration": 1_415_000}


def chunk(finish_reason: str | None = None, timings: object = None, **delta: Any) -> dict[str, Any]:
    choice = {"finish_reason": finish_reason, "index": 0, "delta": delta}
    event = {"choices": [choice], "created": 1796196359, "model": "demo", "object": "chat.completion.chunk"}
    return event | ({"timings": timings} if timings else {})


FIRST = chunk(role="assistant", content=None)
LAST = chunk("stop", TIMINGS)


def objects(*events: dict[str, Any], api: Api = Api.CHAT, path: str = CHAT) -> list[dict[str, Any]]:
    translator = StreamTranslator(Translation(api, path, streams=True))
    return [each for event in events for each in translator.objects(event)] + translator.end()


def message(**fields: Any) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": "", **fields}, "done": False}


DONE = message() | {"done": True, "done_reason": "stop", **COUNTS}


def test_a_chat_streams_its_text_and_ends_with_reason_and_counts():
    found = objects(FIRST, chunk(content=" Every"), chunk(content=" slot"), chunk("length", TIMINGS))
    assert found == [message(content=" Every"), message(content=" slot"), DONE | {"done_reason": "length"}]


def test_thinking_has_a_field_of_its_own():
    assert objects(chunk(reasoning_content="Hm"), chunk(content="Yes"), LAST) == [
        message(thinking="Hm"),
        message(content="Yes"),
        DONE,
    ]


def test_a_prompt_is_answered_with_a_response():
    found = objects(chunk(reasoning_content="Hm"), chunk(content="Yes"), LAST, api=Api.GENERATE)
    assert found == [
        {"response": "", "thinking": "Hm", "done": False},
        {"response": "Yes", "done": False},
        {"response": "", "done": True, "done_reason": "stop", **COUNTS},
    ]


def part(index: int, call_id: str | None = None, **function: str) -> dict[str, Any]:
    return {"index": index, "function": function} | ({"id": call_id, "type": "function"} if call_id else {})


def test_tool_calls_arrive_whole():
    found = objects(
        chunk(tool_calls=[part(0, "a", name="f", arguments='{"x"')]),
        chunk(tool_calls=[part(0, arguments=": 1}")]),
        chunk(tool_calls=[part(1, "b", name="g", arguments="")]),
        chunk("tool_calls", TIMINGS),
    )
    calls = [
        {"id": "a", "function": {"name": "f", "arguments": {"x": 1}}},
        {"id": "b", "function": {"name": "g", "arguments": {}}},
    ]
    assert found == [message(tool_calls=calls), DONE]


def test_arguments_that_were_cut_are_none():
    (called, _) = objects(chunk(tool_calls=[part(0, "a", name="f", arguments='{"x"')]), chunk("length", TIMINGS))
    assert called["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": {}}


def test_counts_may_come_after_the_reason():
    """As they do where a model's rules ask for usage."""
    assert objects(chunk("stop"), {"choices": [], "usage": {}, "timings": TIMINGS}) == [DONE]
    assert objects(chunk("stop")) == [message() | {"done": True, "done_reason": "stop"}]


def test_a_completion_streams_its_text_and_ends_with_reason_and_counts():
    last = {"index": 0, "content": "", "stop": True, "stop_type": "limit", "timings": TIMINGS}
    found = objects({"index": 0, "content": " A", "stop": False}, last, api=Api.GENERATE, path=COMPLETION)
    done = {"response": "", "done": True, "done_reason": "length", **COUNTS}
    assert found == [{"response": " A", "done": False}, done]


def test_an_error_ends_the_stream():
    error = {"error": {"message": "the engine ended", "type": "server_error", "code": "upstream_crashed"}}
    assert objects(chunk(content="a"), error, LAST) == [message(content="a"), {"error": "the engine ended"}]


def test_a_stream_without_an_end_is_an_error():
    (_, last) = objects(chunk(content="a"))
    assert list(last) == ["error"]


def test_a_whole_chat_is_one_object():
    called = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    answer = {"role": "assistant", "content": None, "reasoning_content": "Hm", "tool_calls": [called]}
    found = whole_object(
        {"choices": [{"finish_reason": "tool_calls", "index": 0, "message": answer}], "timings": TIMINGS},
        Translation(Api.CHAT, CHAT),
    )
    calls = [{"id": "a", "function": {"name": "f", "arguments": {"x": 1}}}]
    assert found == DONE | {"message": {"role": "assistant", "content": "", "thinking": "Hm", "tool_calls": calls}}


def test_a_whole_completion_is_one_object():
    answer = {"content": " A slot", "stop": True, "stop_type": "eos", "timings": TIMINGS}
    found = whole_object(answer, Translation(Api.GENERATE, COMPLETION))
    assert found == {"response": " A slot", "done": True, "done_reason": "stop", **COUNTS}


def test_log_probabilities_have_one_form_whichever_route_answers():
    token = {"id": 1, "token": " A", "bytes": [32, 65], "logprob": -1.0}
    entry = token | {"top_logprobs": [token]}
    shown = {"token": " A", "logprob": -1.0, "bytes": [32, 65]}
    expected = [shown | {"top_logprobs": [shown]}]
    chat = chunk(content=" A")
    chat["choices"][0]["logprobs"] = {"content": [entry]}
    assert objects(chat, LAST)[0]["logprobs"] == expected
    completion = {"content": " A", "stop": False, "completion_probabilities": [entry]}
    last = {"content": "", "stop": True}
    assert objects(completion, last, api=Api.GENERATE, path=COMPLETION)[0]["logprobs"] == expected


@pytest.mark.parametrize(
    ("api", "is_unload", "expected"),
    [
        (Api.CHAT, False, message() | {"done": True, "done_reason": "load"}),
        (Api.GENERATE, True, {"response": "", "done": True, "done_reason": "unload"}),
        (Api.EMBED, False, {"embeddings": []}),
        (Api.EMBEDDINGS, False, {"embedding": []}),
    ],
)
def test_a_load_has_an_answer(api: Api, is_unload: bool, expected: dict[str, Any]):
    assert loaded_object(api, is_unload) == expected


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"error": {"code": 501, "message": "no embeddings", "type": "x"}}, "no embeddings"),
        ({"error": "short"}, "short"),
        ("not JSON", "not JSON"),
        ({}, "llama-server reported an error"),
        ([], "llama-server reported an error"),
    ],
)
def test_errors_are_texts(answer: object, text: str):
    assert error_object(answer) == {"error": text}


def test_shorter_embeddings_have_length_one():
    assert first_values([3.0, 4.0, 12.0], 2) == pytest.approx([0.6, 0.8])
    assert first_values([0.0, 0.0], 1) == [0.0]
