"""A streamed answer: its events, what they add up to, and what it took."""

from __future__ import annotations

import json

import pytest

from app.terminal.chat import AnswerFailed, ChatAnswer, Chunk, extended, parse_chunk, summary
from app.terminal.events import COMMENT, ServerEvent, server_events

STREAM = (
    b': loading a 42 %\n\ndata: {"x": "\xc3\xa9"}\r\n\r\nevent: full\ndata: one\ndata:two\n\ndata: [DONE]\n\ndata: cut'
)
EVENTS = [
    ServerEvent(COMMENT, "loading a 42 %"),
    ServerEvent("message", '{"x": "é"}'),
    ServerEvent("full", "one\ntwo"),
    ServerEvent("message", "[DONE]"),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_read_whatever_the_pieces_are(size: int):
    assert list(server_events(STREAM[i : i + size] for i in range(0, len(STREAM), size))) == EVENTS


def test_a_chunk_has_text_reasoning_or_the_figures():
    delta = {"choices": [{"delta": {"content": "a", "reasoning_content": "b"}, "finish_reason": "stop"}]}
    assert parse_chunk(json.dumps(delta)) == Chunk("a", "b", "stop")
    last = {"choices": [], "usage": {"completion_tokens": 1}, "timings": {"predicted_per_second": 2.0}}
    assert parse_chunk(json.dumps(last)) == Chunk(usage=last["usage"], timings=last["timings"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('{"error": {"message": "the engine crashed"}}', "the engine crashed"),
        ('{"error": "no"}', "no"),
        ("[]", "no chat completion's"),
        ("<html>", "no chat completion's"),
        ('{"choices": [1]}', "no chat completion's"),
    ],
)
def test_an_error_in_the_stream_ends_the_answer(data: str, message: str):
    with pytest.raises(AnswerFailed, match=message):
        parse_chunk(data)


def test_an_answer_is_the_sum_of_its_chunks():
    answer = ChatAnswer()
    for seconds, chunk in (
        (0.1, Chunk()),
        (3.0, Chunk(reasoning="hm")),
        (3.5, Chunk(content="ye")),
        (4.0, Chunk(content="s", finish_reason="stop")),
        (5.0, Chunk(usage={"completion_tokens": 24, "prompt_tokens": 7})),
    ):
        answer = extended(answer, chunk, seconds, load_seconds=2.7)
    # 24 tokens in the 2 s from the first token on
    assert answer == ChatAnswer("yes", "hm", "stop", 24, 7, 12.0, 3.0, 2.7)


def test_the_engines_own_rate_counts_where_it_gives_one():
    chunk = Chunk(usage={"completion_tokens": 24}, timings={"predicted_per_second": 58.3})
    assert extended(ChatAnswer(), chunk, 5.0, 0.0).tokens_per_second == 58.3


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (ChatAnswer("a", "", "stop", 24, 7, 58.3, 0.18), "24 tokens, 58 tokens/s, first after 0.18 s"),
        (
            ChatAnswer("a", "", "length", 1, 7, None, 2.9, 2.7),
            "1 token, first after 2.90 s (2.7 s of it loading), cut off: the limit of tokens is reached",
        ),
        (ChatAnswer(), ""),
    ],
)
def test_the_summary_says_what_is_known(answer: ChatAnswer, text: str):
    assert summary(answer) == text
