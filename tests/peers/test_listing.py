"""What is read from a peer's list of models."""

from __future__ import annotations

import json

import pytest

from app.entities.peer import PeerModel
from app.use_cases.peers.listing import MAX_MODELS, InvalidList, list_pause_seconds, read_list


def read(*entries: object) -> tuple[PeerModel, ...]:
    return read_list("box", json.dumps({"object": "list", "data": entries}).encode())


def test_a_list_has_the_names_and_what_clients_need_to_know():
    assert read({"id": "a", "created": 7, "max_model_len": 4096}, {"id": "b/c:d"}) == (
        PeerModel("box", "a", 7, 4096),
        PeerModel("box", "b/c:d"),
    )


def test_a_bare_list_is_one_too():
    assert read_list("box", b'[{"id": "a"}]') == (PeerModel("box", "a"),)


@pytest.mark.parametrize(
    "entry", ["a", None, {}, {"id": 1}, {"id": ""}, {"id": " a"}, {"id": "a\nb"}, {"id": "a" * 401}, {"id": "\x1b[1m"}]
)
def test_what_is_no_name_is_left_out(entry: object):
    assert read(entry, {"id": "b"}) == (PeerModel("box", "b"),)


@pytest.mark.parametrize("number", [True, "7", -1, 2**60, 1.5, None])
def test_what_is_no_count_is_not_known(number: object):
    assert read({"id": "a", "created": number, "context_length": number}) == (PeerModel("box", "a"),)


def test_a_model_is_listed_once_and_their_number_is_limited():
    assert read({"id": "a"}, {"id": "a"}) == (PeerModel("box", "a"),)
    assert len(read(*({"id": str(number)} for number in range(MAX_MODELS + 5)))) == MAX_MODELS


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"data": {}}', b"7", b"[" * 100_000, b"\xff"])
def test_garbage_is_no_list(body: bytes):
    with pytest.raises(InvalidList):
        read_list("box", body)


def test_a_peer_that_does_not_answer_is_read_sooner_at_first():
    assert [list_pause_seconds(failures) for failures in (0, 1, 2, 3, 4, 5, 99)] == [60, 5, 10, 20, 40, 60, 60]
