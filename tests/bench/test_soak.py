"""The soak's plan, and what counts as an answer or a clear error."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise

import pytest

from bench.soak import client_faults, crash_faults, engine_faults, gpu_faults, service_faults  # noqa: F401 - they register
from bench.soak.account import Account
from bench.soak.faults import FAULTS
from bench.soak.outcome import CUT, REFUSED, Answer, outcome
from bench.soak.plan import plan
from bench.soak.resources import Held, growth

OURS = {"x-llama-smart-proxy-error": "1"}
STREAM = {"content-type": "text/event-stream"}


def error(code: str, **more: object) -> bytes:
    return json.dumps(
        {"error": {"message": "why", "type": "server_error", "param": None, "code": code, **more}}
    ).encode()


def event(data: bytes) -> bytes:
    return b'data: {"choices": []}\n\n' + b"data: " + data + b"\n\n"


def test_the_same_seed_gives_the_same_plan():
    assert list(plan("abc", 100, seed=3)) == list(plan("abc", 100, seed=3)) != list(plan("abc", 100, seed=4))


def test_every_kind_occurs_before_one_occurs_again():
    planned = list(plan(sorted(FAULTS), 600, seed=1))
    counts = Counter(each.kind for each in planned)
    assert len(FAULTS) >= 22 and set(counts) == set(FAULTS)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert all(0 < after.at - before.at < 5 for before, after in pairwise(planned))


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(status=200, body=b'{"choices": []}'), "200"),
        (Answer(status=200, headers=STREAM, body=event(b"[DONE]")), "200"),
        (Answer(status=200, headers=STREAM, body=event(error("upstream_crashed"))), "stream upstream_crashed"),
        (Answer(status=503, headers=OURS | {"retry-after": "10"}, body=error("overloaded")), "overloaded"),
        (Answer(status=422, headers=OURS, body=error("model_does_not_fit", needed_bytes=1)), "model_does_not_fit"),
        (Answer(status=429, body=b'{"error": {"code": 429, "message": "slow"}}'), "engine 429"),
    ],
)
def test_an_answer_and_a_clear_error_are_no_problem(answer: Answer, kind: str):
    assert (outcome(answer).kind, outcome(answer).problem) == (kind, "")


@pytest.mark.parametrize(
    "answer",
    [
        Answer(problem="ConnectionResetError"),
        Answer(status=200, body=b'{"choices"'),
        Answer(status=200, headers=STREAM, body=b'data: {"choices": []}\n\n'),
        Answer(status=200, headers=STREAM, body=event(error("internal_error"))),
        Answer(status=200, headers=STREAM, body=event(error("made_up"))),
        Answer(status=500, headers=OURS, body=error("internal_error")),
        Answer(status=502, headers=OURS, body=error("overloaded")),
        Answer(status=503, headers=OURS | {"retry-after": "0"}, body=error("overloaded")),
        Answer(status=503, headers=OURS, body=b'{"error": {"code": "overloaded"}}'),
        Answer(status=500, body=b"Internal Server Error"),
    ],
    ids=lambda answer: f"{answer.status} {answer.problem or answer.body[-40:]!r}",
)
def test_anything_else_is_a_problem(answer: Answer):
    assert outcome(answer).problem


def test_what_a_kill_of_the_service_cuts_or_refuses_is_counted_for_itself_and_nothing_else_is_excused():
    account = Account()
    with account.outage():
        account.add(Answer("m", problem="ConnectionRefusedError", is_refused=True))
    account.add(Answer("m", problem="ConnectionResetError", seconds=5.0))  # it began before the kill
    assert account.totals() == {REFUSED: 1, CUT: 1} and not account.failures
    account.outages[0].ended -= 10
    account.add(Answer("m", problem="ConnectionResetError", seconds=5.0))
    account.add(Answer("m", status=500, headers=OURS, body=error("internal_error"), seconds=60.0))
    assert account.failure_count == 2


def test_without_kinds_there_is_no_plan():
    assert not list(plan([], 100, seed=1))


def test_what_is_held_at_rest_may_not_grow():
    before = Held(rss_mib=80.0, fds=18, threads=20, processes=3, zombies=0)
    assert growth(before, Held(90.0, 20, 22, 3, 0)) == []
    assert len(growth(before, Held(120.0, 40, 60, 5, 1))) == 5
