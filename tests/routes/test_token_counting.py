"""What a request counts for its key, whatever its route, its options and its client do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pytest

from app.entities.token_usage import TokenUsage
from app.ports import EngineAnswer
from app.request_body.content import BodyFormat, read_content
from app.routes.paths import POST_ROUTES, READING_ROUTES, ROUTES_WITHOUT_TOKENS
from app.routes.token_counting import tokens_of_key
from app.use_cases.token_counts import Prompts

PROMPTS = Prompts(size_bytes=300, context_tokens=4096)  # estimated as 100 tokens
TOLD = TokenUsage(40, 9)


@dataclass
class Answer:
    reported: TokenUsage
    text_tokens: int = 0
    status: int = 200

    def usage(self) -> TokenUsage:
        return self.reported

    def estimated_tokens(self) -> int:
        return self.text_tokens


def tokens(
    answer: Answer | None, route: str = "/completion", complete: bool = True, left: bool = False, prompts: Any = PROMPTS
) -> int:
    return tokens_of_key(route, prompts, cast("EngineAnswer | None", answer), complete, left)


def test_a_complete_answer_counts_what_the_engine_reported():
    assert tokens(Answer(TOLD, 1000)) == 49


def test_an_answer_without_counts_is_estimated():
    assert tokens(Answer(TokenUsage(), 30)) == 130
    assert tokens(Answer(TokenUsage(None, 9), 30)) == 109
    assert tokens(Answer(TokenUsage(40, None), 30)) == 70


def test_an_answer_that_reports_one_of_several_choices_is_estimated_where_that_is_more():
    one_of_several = Answer(TokenUsage(40, 9, is_whole=False), 30)
    assert tokens(one_of_several) == 70, "choices have their prompt in common"
    assert tokens(one_of_several, prompts=Prompts(2, 300, 4096)) == 130


def test_a_stream_counts_its_prompt_and_what_arrived_if_its_client_leaves():
    """Only the events counted, and a client that left each stream before the last one paid for no prompt."""
    assert tokens(Answer(TokenUsage(), 30), complete=False, left=True) == 130
    assert tokens(Answer(TokenUsage(40, 0), 30), complete=False, left=True) == 70, "messages report the prompt first"
    several = Prompts(2, 300, 4096)
    assert tokens(Answer(TOLD, 30), complete=False, left=True, prompts=several) == 130, "one of two has reported"


def test_a_client_that_does_not_wait_for_the_answer_pays_for_the_prompt():
    assert (tokens(None, left=True), tokens(None, left=False)) == (100, 0)


@pytest.mark.parametrize("status", [400, 404, 500])
def test_an_error_of_the_engine_counts_nothing(status: int):
    assert tokens(Answer(TokenUsage(), 30, status)) == 0


@pytest.mark.parametrize("route", POST_ROUTES)
def test_every_route_that_computes_counts(route: str):
    expected = 0 if route in ROUTES_WITHOUT_TOKENS else 100 if route in READING_ROUTES else 130
    assert tokens(Answer(TokenUsage(), 30), route) == expected


@pytest.mark.parametrize(
    ("body", "bytes_read", "expected"),
    [
        # 3 prompts of up to 16 tokens; the body's 90 bytes are at most 30 tokens.
        (b'{"prompt":["a","b","c"]}', 90, 30),
        (b'{"prompt":["a","b","c"]}', 9000, 48),
        (b'{"prompt":"a"}', 9000, 16),
        (b'{"prompt":[]}', 9000, 16),
        (b'{"messages":[{"role":"user","content":["a","b"]}]}', 9000, 16),
        # The query is read with each of 4 documents: 3 x 6 bytes more than the body has.
        (b'{"query":"abcdef","documents":["a","b","c","d"]}', 60, 26),
        (b'{"query":"abcdef","texts":["a","b","c","d"]}', 60, 26),
    ],
)
def test_no_prompt_is_estimated_longer_than_its_context(body: bytes, bytes_read: int, expected: int):
    content = read_content(body, BodyFormat(is_named=True))
    prompts = Prompts(content.prompts, bytes_read + content.repeated_bytes, context_tokens=16)
    assert prompts.estimated_tokens == expected
