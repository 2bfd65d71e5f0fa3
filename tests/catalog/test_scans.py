"""Scans that requests cause."""

from __future__ import annotations

import threading
import time

import pytest

from tests.helpers.service import wait_for
from workers.catalog import scans as module
from workers.catalog.scans import MAX_WAITING_REQUESTS, Scans

DEADLINE_SECONDS = 10.0


class HeldScan:
    """A scan that takes until `end` is set."""

    def __init__(self) -> None:
        self.count = 0
        self.end = threading.Event()

    def __call__(self) -> None:
        self.count += 1
        assert self.end.wait(DEADLINE_SECONDS)


@pytest.fixture
def held() -> HeldScan:
    return HeldScan()


def test_a_scan_is_not_repeated_within_seconds(held: HeldScan):
    held.end.set()
    scans = Scans(held)
    assert scans.run_if_due()
    assert not any(scans.run_if_due() for _ in range(1000))
    assert held.count == 1


def test_the_next_scan_waits_a_multiple_of_what_the_last_one_took(held: HeldScan, monkeypatch: pytest.MonkeyPatch):
    """A folder on a slow disk may take minutes."""
    monkeypatch.setattr(module, "REST_SECONDS", 0.0)
    held.end.set()
    scans = Scans(held)
    assert scans.run_if_due()
    monkeypatch.setattr(module, "REST_FACTOR", 1e9)
    wait_for(scans.run_if_due, DEADLINE_SECONDS)
    assert not scans.run_if_due() and held.count == 2


def test_a_request_does_not_wait_for_a_long_scan(held: HeldScan, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "REQUEST_WAIT_SECONDS", 0.01)
    scans = Scans(held)
    assert not scans.run_if_due() and not scans.run_if_due()
    held.end.set()
    wait_for(scans._ended.is_set, DEADLINE_SECONDS)
    assert held.count == 1


def test_few_requests_wait_and_the_others_are_answered_at_once(held: HeldScan, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "REQUEST_WAIT_SECONDS", DEADLINE_SECONDS)
    scans, results = Scans(held), list[bool]()
    waiting = [threading.Thread(target=lambda: results.append(scans.run_if_due())) for _ in range(MAX_WAITING_REQUESTS)]
    for thread in waiting:
        thread.start()
    wait_for(lambda: not scans._waiting._value, DEADLINE_SECONDS)
    began = time.monotonic()
    assert not scans.run_if_due()
    assert time.monotonic() - began < DEADLINE_SECONDS / 2
    held.end.set()
    for thread in waiting:
        thread.join(DEADLINE_SECONDS)
    assert results == [True] * MAX_WAITING_REQUESTS


def test_without_a_thread_nothing_is_scanned_and_the_next_request_tries(
    held: HeldScan, monkeypatch: pytest.MonkeyPatch
):
    held.end.set()
    scans = Scans(held)
    with monkeypatch.context() as out_of_threads:
        out_of_threads.setattr(threading.Thread, "start", lambda self: (_ for _ in ()).throw(RuntimeError("no thread")))
        assert not scans.run_if_due()
    assert scans.run_if_due()


def test_a_scan_that_fails_does_not_block_later_ones(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "REST_SECONDS", 0.0)
    monkeypatch.setattr(module, "REST_FACTOR", 0.0)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    scans = Scans(lambda: 1 // 0)
    assert scans.run_if_due()
    assert scans.run_if_due()
