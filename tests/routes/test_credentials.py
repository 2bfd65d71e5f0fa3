"""Keys and hosts: what counts as which."""

from __future__ import annotations

import base64
import hashlib

import pytest

from app.entities.key import ApiKey
from app.use_cases.credentials import Credentials, credentials_offered, is_loopback, matching_key


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("authorization", "x_api_key", "found"),
    [
        ("", "", []),
        ("Bearer k", "", [Credentials("k", True)]),
        ("bearer  k ", "", [Credentials("k", True)]),
        ("", " k ", [Credentials("k", True)]),
        ("Bearer a", "b", [Credentials("b", True), Credentials("a", True)]),
        (basic("user:k"), "", [Credentials("k", False)]),
        (basic(":k:with:colons"), "", [Credentials("k:with:colons", False)]),
        (basic("user:"), "", []),
        (basic("no colon"), "", []),
        ("Basic ***", "", []),
        ("Basic /w==", "", []),  # the byte ff: no text
        ("Bearer", "", []),
        ("Bearer ", "", []),
        ("k", "", []),
        ("Digest k", "", []),
    ],
)
def test_a_key_is_offered_by_bearer_x_api_key_or_basic(authorization: str, x_api_key: str, found: list[Credentials]):
    assert credentials_offered(authorization, [x_api_key]) == found


def test_azures_header_offers_a_key_too():
    found = [Credentials("a", True), Credentials("b", True)]
    assert credentials_offered("", ["a", "b"]) == found


def a_key(name: str, secret: str) -> ApiKey:
    return ApiKey(name, hashlib.sha256(secret.encode()).hexdigest())


def test_a_key_is_known_by_its_hash():
    keys = [a_key("one", "k1"), a_key("two", "k2"), a_key("three", "ключ")]
    assert matching_key(keys, "k1") == keys[0]
    assert matching_key(keys, "k2") == keys[1]
    assert matching_key(keys, "ключ") == keys[2]
    assert matching_key(keys, keys[0].sha256) is None
    assert matching_key(keys, "") is None
    assert matching_key(keys, "\udcff") is None


@pytest.mark.parametrize("digits", [1, 8, 32, 63])
def test_keys_whose_hashes_begin_alike_are_different_keys(digits: int):
    """All 64 digits count: eight of them are found by trying some four billion keys."""
    digest = hashlib.sha256(b"k").hexdigest()
    other = digest[:digits] + "".join("1" if digit == "0" else "0" for digit in digest[digits:])
    assert matching_key([ApiKey("alike", other)], "k") is None
    keys = [ApiKey("alike", other), ApiKey("same", digest)]
    assert matching_key(keys, "k") == matching_key(keys[::-1], "k") == ApiKey("same", digest)


def test_a_key_may_use_what_its_globs_match():
    key = ApiKey("one", "", models=("qwen*", "org/*"))
    assert key.allows("qwen3-8b")
    assert key.allows("gpt-4o-mini", "qwen3-8b"), "by any of a model's names"
    assert key.allows("org/repo:Q4_K_M")
    assert not key.allows("Qwen3")
    assert not ApiKey("none", "", models=()).allows("a")
    assert ApiKey("all", "").allows("a")


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        ("localhost", True),
        ("LOCALHOST:8080", True),
        ("localhost.", True),
        ("app.localhost:1", True),
        ("127.0.0.1", True),
        ("127.0.0.1:8080", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("[::1]:8080", True),
        ("::ffff:127.0.0.1", True),
        ("", False),
        ("0.0.0.0", False),
        ("[::]", False),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("evil.example:127.0.0.1", False),
        ("192.168.1.2", False),
        ("2130706433", False),
    ],
)
def test_a_loopback_host_is_told_from_one_that_looks_like_it(host: str, is_ours: bool):
    assert is_loopback(host) is is_ours
