"""Clients that disconnect, and descriptors whose numbers are reused."""

from __future__ import annotations

import socket
import threading

import pytest

from workers.clients.client_watch import ClientWatcher

pytestmark = pytest.mark.integration


@pytest.fixture
def watcher() -> ClientWatcher:
    made = ClientWatcher()
    made.start()
    return made


def test_a_client_that_closes_is_noticed(watcher: ClientWatcher):
    ours, client = socket.socketpair()
    disconnected = threading.Event()
    with ours:
        watch = watcher.watch(ours)
        watch.begin()
        watch.on_disconnect(disconnected.set)
        client.close()
        assert disconnected.wait(2)
        assert watch.is_disconnected
        watch.close()


def test_an_action_set_after_the_disconnect_runs_at_once(watcher: ClientWatcher):
    ours, client = socket.socketpair()
    with ours:
        watch = watcher.watch(ours)
        watch.begin()
        disconnected = threading.Event()
        watch.on_disconnect(disconnected.set)
        client.close()
        assert disconnected.wait(2)
        calls = []
        watch.on_disconnect(lambda: calls.append(1))
        assert calls == [1]
        watch.close()


def test_an_event_of_a_closed_socket_does_not_touch_the_next_of_its_number(watcher: ClientWatcher):
    """Between the event and the look-up the request may end and its file descriptor be another client's."""
    ours, client = socket.socketpair()
    with ours, client:
        watch = watcher.watch(ours)
        watch.begin()
        watcher._notify(ours.fileno())  # as if the event had been of a predecessor
        assert not watch.is_disconnected
        watch.close()


def test_closing_twice_or_after_the_socket_is_harmless(watcher: ClientWatcher):
    ours, client = socket.socketpair()
    client.close()
    watch = watcher.watch(ours)
    watch.begin()
    ours.close()
    watch.close()
    watch.close()


def test_without_a_socket_nothing_is_watched(watcher: ClientWatcher):
    watch = watcher.watch(None)
    watch.on_disconnect(lambda: pytest.fail("nobody disconnected"))
    watch.close()


def test_a_client_that_cannot_be_watched_fails_no_request(watcher: ClientWatcher):
    """A request that waits for a slot would be given one that nobody gives back."""
    ours, client = socket.socketpair()
    watch = watcher.watch(ours)
    ours.close()  # cannot be watched, as on a system that has no watch left
    client.close()
    watch.begin()
    assert not watch.is_disconnected
    watch.close()


def test_a_slow_action_of_one_client_delays_no_other(watcher: ClientWatcher):
    ours, client = socket.socketpair()
    mine, other = socket.socketpair()
    with ours, mine, other:
        begun, may_end = threading.Event(), threading.Event()
        watch = watcher.watch(ours)
        watch.on_disconnect(lambda: bool(begun.set() or may_end.wait(10)))
        watch.begin()
        client.close()
        assert begun.wait(10)
        next_one = threading.Thread(target=watcher.watch(mine).begin, daemon=True)
        next_one.start()
        next_one.join(5)
        assert not next_one.is_alive()
        may_end.set()
        watch.close()
