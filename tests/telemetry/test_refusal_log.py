"""Repeated refusals are one line with a count."""

from __future__ import annotations

from app.errors import InvalidRequest, Overloaded
from workers.telemetry.refusal_log import INTERVAL_SECONDS, MAX_KINDS, RefusalLog


def test_the_first_refusal_is_logged_and_further_ones_are_counted():
    log = RefusalLog()
    assert log.lines(Overloaded("full"), "a", 0.0) == ["refused status=503 client=a reason='full'"]
    assert [log.lines(Overloaded("full"), "a", at) for at in (1.0, 2.0)] == [[], []]
    assert log.due_lines(INTERVAL_SECONDS - 0.1) == []
    assert log.due_lines(INTERVAL_SECONDS + 1) == ["refused status=503 client=a reason='full' repeated=2"]


def test_another_client_or_problem_is_a_line_of_its_own():
    log = RefusalLog()
    log.lines(Overloaded("full"), "a", 0.0)
    assert log.lines(Overloaded("full"), "b", 0.0)
    assert log.lines(InvalidRequest("bad"), "a", 0.0)
    assert log.lines(InvalidRequest("bad"), "a", 0.0, "endpoint=x")


def test_after_a_quiet_interval_a_refusal_is_logged_at_once():
    log = RefusalLog()
    log.lines(Overloaded("full"), "a", 0.0)
    assert log.due_lines(INTERVAL_SECONDS + 1) == []
    assert log.lines(Overloaded("full"), "a", INTERVAL_SECONDS + 2)


def test_many_clients_are_counted_together():
    log = RefusalLog()
    lines = [line for n in range(3 * MAX_KINDS) for line in log.lines(Overloaded("full"), f"client-{n}", 0.0)]
    assert len(lines) == MAX_KINDS + 1
    due = log.due_lines(INTERVAL_SECONDS + 1)
    assert due == [f"refused status=503 client=others reason='full' repeated={2 * MAX_KINDS - 1}"]
