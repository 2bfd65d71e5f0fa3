"""Permits: one for each thread, some for health checks, and a short queue."""

from __future__ import annotations

from workers.gunicorn_worker.permits import MAX_WAITING_HEALTH_CHECKS, RequestPermits
from workers.gunicorn_worker.receiving import ClientConnection


def asking(request: bytes = b"GET / HTTP/1.1") -> ClientConnection:
    connection = ClientConnection(None, "", None)  # type: ignore[arg-type]
    connection.received += request
    return connection


def test_who_waited_first_gets_the_next_permit():
    permits = RequestPermits(2)
    held = [permits.take(asking()) for _ in range(2)]
    first, second = asking(), asking()
    assert permits.take(first) is None and permits.wait(first) and permits.wait(second)
    assert permits.take_next() is None
    held[0].release()
    assert permits.take(asking()) is None, "nobody overtakes"
    assert permits.take_next() == (first, held[0])
    assert permits.take_next() is None


def test_who_has_given_up_gets_no_permit():
    permits = RequestPermits(1)
    held = permits.take(asking())
    waiting = asking()
    permits.wait(waiting)
    permits.give_up(waiting)
    assert not permits.are_awaited
    held.release()
    assert permits.take_next() is None


def test_health_checks_do_not_wait_behind_other_requests():
    permits = RequestPermits(1)
    permits.take(asking())
    assert permits.wait(asking())
    checks = [permits.take(asking(b"GET /health HTTP/1.1")) for _ in range(MAX_WAITING_HEALTH_CHECKS + 1)]
    assert checks.index(None) == MAX_WAITING_HEALTH_CHECKS
