"""Tokens, as the engines' answers tell them."""

from __future__ import annotations

import json

import pytest

from app.ports import TokenUsage
from workers.relay.usage import MAX_BYTES, token_usage


def counted(*pieces: bytes, is_stream: bool = False) -> TokenUsage | None:
    return token_usage(b"".join(pieces[-2:]), is_stream)


def event(answer: object) -> bytes:
    return b"data: " + json.dumps(answer).encode() + b"\n\n"


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


USAGE = {"prompt_tokens": 7, "completion_tokens": 3}
TIMINGS = {"prompt_n": 5, "cache_n": 2, "predicted_n": 3, "predicted_ms": 1.5}


@pytest.mark.parametrize(
    "answer",
    [
        {"choices": [], "usage": USAGE},
        {"timings": TIMINGS},
        {"usage": {"input_tokens": 7, "output_tokens": 3}},
        {"type": "response.completed", "response": {"usage": {"input_tokens": 7, "output_tokens": 3}}},
    ],
)
def test_each_form_is_known(answer: object):
    assert counted(json.dumps(answer).encode()) == TokenUsage(7, 3)
    assert counted(
        chunk(event({"a": 1})), chunk(event(answer)), chunk(b"data: [DONE]\n\n"), is_stream=True
    ) == TokenUsage(7, 3)


@pytest.mark.parametrize("counts", [{"usage": USAGE}, {"timings": TIMINGS}])
def test_a_long_answer_is_counted_by_its_end(counts: object):
    """With logprobs, 2,000 tokens are 8 MB: they were not counted for the key."""
    whole = json.dumps({"content": '"usage":{"prompt_tokens":1}' * 9, **counts, "id": "x"}).encode()
    assert counted(whole[20:]) == TokenUsage(7, 3)
    assert counted(json.dumps({"content": '"usage":{"prompt_tokens":1}' * 9}).encode()[20:]) is None


def test_the_last_event_with_counts_is_used():
    both = event({"timings": {"predicted_n": 1}}) + event({"usage": USAGE, "choices": []}) + b"data: [DONE]\n\n"
    assert counted(chunk(both), is_stream=True) == TokenUsage(7, 3)


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"{}", b'{"usage": null}', b'{"usage": 7}', b'{"usage": {"prompt_tokens": -1}}', b'["usage"]'),
        *(b'{"usage": {"prompt_tokens": true}}', b'{"usage": {"prompt_tokens": 1e3}}', b'{"usage"', b'\xff"usage"'),
        b'{"usage": {"prompt_tokens": 7}}' + b" " * MAX_BYTES,
    ],
)
def test_answers_without_counts_are_skipped(text: bytes):
    assert counted(text) is None
    assert counted(b"data: " + text + b"\n\n", is_stream=True) is None
