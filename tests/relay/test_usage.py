"""Tokens, as the engines' answers report them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from app.entities.token_usage import TokenUsage
from workers.relay.usage import UsageMeter

UNKNOWN = TokenUsage()


def metered(*pieces: bytes, is_stream: bool = False) -> TokenUsage:
    meter = UsageMeter(is_stream)
    for piece in pieces:
        meter.read(piece)
    return meter.usage()


def counted(*pieces: bytes, is_stream: bool = False) -> TokenUsage:
    """The tokens alone."""
    return replace(metered(*pieces, is_stream=is_stream), generation_seconds=None)


def event(answer: object) -> bytes:
    return b"data: " + json.dumps(answer, separators=(",", ":")).encode() + b"\n\n"


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


def streamed(*answers: object) -> TokenUsage:
    return counted(*(chunk(event(answer)) for answer in answers), chunk(b"data: [DONE]\n\n"), is_stream=True)


USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}
TIMINGS = {"prompt_n": 5, "cache_n": 2, "predicted_n": 3, "predicted_ms": 1.5}
RESPONSES = {"input_tokens": 7, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 2}}
MESSAGES = {"cache_read_input_tokens": 2, "input_tokens": 5, "output_tokens": 3}


@pytest.mark.parametrize(
    "answer",
    [
        {"choices": [], "usage": USAGE},
        {"timings": TIMINGS},
        {"choices": [], "usage": USAGE, "timings": TIMINGS},
        {"usage": MESSAGES},
        {"type": "response.completed", "response": {"usage": RESPONSES}},
    ],
)
def test_each_form_is_known(answer: object):
    assert counted(json.dumps(answer).encode()) == TokenUsage(7, 3)
    assert streamed({"a": 1}, answer) == TokenUsage(7, 3)


@pytest.mark.parametrize("size", [1, 10, 100, 5000])
def test_an_answer_is_counted_wherever_its_pieces_end(size: int):
    """With logprobs, 2,000 tokens are 8 MB; an embedding has its counts in front of 128 KiB of numbers."""
    text = '"usage":{"prompt_tokens":1}' * 9
    answers = [{"content": text, "timings": TIMINGS, "id": "x"}, {"usage": USAGE, "data": [0.25] * 9000}]
    for answer in answers:
        body = json.dumps(answer).encode()
        assert counted(*(body[at : at + size] for at in range(0, len(body), size))) == TokenUsage(7, 3)
    body = event({"index": 1, "prompt": "x" * 9000, "timings": TIMINGS}) + event({"index": 0, "timings": TIMINGS})
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    assert counted(*pieces, is_stream=True) == TokenUsage(14, 6)


def test_embeddings_report_a_prompt_alone():
    assert counted(b'{"usage":{"prompt_tokens":7,"total_tokens":7},"data":[]}') == TokenUsage(7, None)


def test_the_prompt_of_a_message_is_in_its_first_event():
    begin = {"type": "message_start", "message": {"usage": {**MESSAGES, "output_tokens": 0}}}
    block = {"type": "content_block_delta", "index": 0, "delta": {"text": "x"}}
    assert streamed(begin, block) == TokenUsage(7, 0), "its client left"
    assert streamed(begin, block, {"type": "message_delta", "usage": {"output_tokens": 3}}) == TokenUsage(7, 3)


def test_several_prompts_are_added_up():
    answers = [{"index": index, "timings": {**TIMINGS, "prompt_n": index}} for index in range(3)]
    assert counted(json.dumps(answers).encode()) == TokenUsage(0 + 1 + 2 + 3 * 2, 9)
    assert streamed(*reversed(answers)) == TokenUsage(9, 9)


def test_each_choice_reports_behind_its_own_index():
    ends = [event({"choices": [{"index": i, "delta": {}}]}) + event({"choices": [], "usage": USAGE}) for i in range(2)]
    assert counted(*map(chunk, ends), is_stream=True) == TokenUsage(14, 6)


def test_the_usage_of_one_of_several_choices_is_not_all():
    """llama-server merges the answers of `n` choices, and of several prompts, and reports the tokens of one."""
    choices = [{"index": index, "message": {"content": "x"}} for index in range(2)]
    assert counted(json.dumps({"choices": choices, "usage": USAGE}).encode()) == TokenUsage(7, 3, is_whole=False)
    assert counted(json.dumps({"choices": choices[:1], "usage": USAGE}).encode()) == TokenUsage(7, 3)
    data = [{"index": index, "embedding": [1]} for index in range(2)]
    usage = {"prompt_tokens": 7, "total_tokens": 7}
    assert counted(json.dumps({"usage": usage, "data": data}).encode()) == TokenUsage(7, None)


def test_reports_with_every_token_have_the_sum_so_far():
    def token(count: int) -> object:
        calls = [{"index": 4 + count, "id": "x", "type": "function"}]
        return {
            "choices": [{"index": 0, "delta": {"tool_calls": calls}}],
            "timings": {**TIMINGS, "predicted_n": count},
        }

    assert streamed(token(1), token(2), token(3)) == TokenUsage(7, 3)


def test_a_count_that_was_not_asked_for_is_unknown():
    """A client chooses by `response_fields`, and could have asked for the smallest one."""
    assert counted(b'{"timings":{"predicted_n":3}}') == TokenUsage(None, 3)
    assert counted(b'{"timings":{"cache_n":1,"predicted_n":3}}') == TokenUsage(None, 3)
    assert counted(b'{"timings":{"prompt_n":0}}') == UNKNOWN
    assert counted(b'{"timings":{"prompt_n":0,"cache_n":7}}') == TokenUsage(7, None)
    assert counted(b'{"content":"x"}') == UNKNOWN


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"{}", b'{"usage": null}', b'{"usage": 7}', b'{"usage": {"prompt_tokens": -1}}', b'["usage"]'),
        *(b'{"usage": {"prompt_tokens": true}}', b'{"usage": {"prompt_tokens": 1e3}}', b'{"usage"', b'\xff"usage"'),
        b'{"usage":{"a":{"b":{}}}}',
    ],
)
def test_answers_without_counts_are_skipped(text: bytes):
    assert counted(text, b"}") == UNKNOWN
    assert counted(b"data: " + text + b"\n\n", is_stream=True) == UNKNOWN


def test_events_are_counted_however_they_arrive():
    body = event({"a": "data: x"}) * 3 + b"data: [DONE]\n\n"
    for pieces in ([body], [chunk(each) for each in body.splitlines(keepends=True)]):
        meter = UsageMeter(is_stream=True)
        for piece in pieces:
            meter.read(piece)
        assert (meter.events, meter.received_bytes) == (3, sum(map(len, pieces)))


def test_the_time_that_the_engine_took_for_the_completion_is_known():
    assert metered(json.dumps({"usage": USAGE, "timings": TIMINGS}).encode()).generation_seconds == 0.0015
    assert metered(event({"timings": TIMINGS}), is_stream=True).generation_seconds == 0.0015


@pytest.mark.parametrize("value", [None, "1", -1.0, 1e999])
def test_a_time_that_is_none_is_unknown(value: object):
    answer = json.dumps({"timings": {**TIMINGS, "predicted_ms": value}}).encode()
    assert metered(answer).generation_seconds is None
