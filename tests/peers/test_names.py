"""Which of the peers' models a name means."""

from __future__ import annotations

from app.entities.peer import BreakerState, PeerModel, PeerStatus
from app.use_cases.peers.names import in_order, peer_names, unlisted_peer

A, B = PeerModel("one", "a"), PeerModel("two", "a")
OTHER = PeerModel("two", "one/a")  # its own name is the full name of another
NAMES = peer_names([A, B, OTHER, PeerModel("two", "Qwen:8B")])


def test_a_name_means_the_models_that_have_it():
    assert NAMES.named("two/a") == (B,)
    assert NAMES.named("a") == (A, B)
    assert NAMES.named("A:latest") == (A, B)
    assert NAMES.named("qwen:8b") == NAMES.named("TWO/qwen:8b") != ()
    assert NAMES.named("b") == NAMES.named("") == ()


def test_a_name_with_a_peer_means_that_peers_model():
    assert NAMES.named("one/a") == (A,)
    assert NAMES.named("two/one/a") == (OTHER,)


def test_a_peer_that_answers_comes_before_one_that_does_not():
    down, up = PeerStatus("one", breaker=BreakerState.OPEN), PeerStatus("two", breaker=BreakerState.HALF_OPEN)
    assert in_order((A, B), [down, up]) == [B, A]
    assert in_order((A, B), []) == [A, B]


def test_a_name_may_be_of_a_peer_whose_list_is_not_known_yet():
    new = PeerStatus("one", is_listed=False)
    assert unlisted_peer("one/x", [PeerStatus("two"), new]) is new
    assert unlisted_peer("two/x", [PeerStatus("two"), new]) is None
    assert unlisted_peer("one", [new]) is None
