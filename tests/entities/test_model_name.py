"""Names that are the same, globs, and what keys may reach by them."""

from __future__ import annotations

import time

import pytest

from app.entities.key import ApiKey
from app.entities.model_name import glob_pattern, similar_names


@pytest.mark.parametrize(
    ("key_glob", "alias", "is_allowed"),
    [
        ("claude-*", "claude-opus", True),
        ("claude-*", "claude-*", True),
        ("claude-*", "claude-opus-*", True),
        ("claude-*", "claude-?", True),
        ("claude-opus-*", "claude-*", False),
        ("claude-opus", "claude-*", False),
        ("team-b-*", "*", False),
        ("a?", "a*", False),
        ("?", "*", False),
        ("*", "*", True),
    ],
)
def test_a_key_reaches_a_model_by_a_glob_only_if_all_its_names_are_allowed(key_glob: str, alias: str, is_allowed: bool):
    """The alias "*" of one model must not open it to every key that is limited to other models."""
    assert ApiKey("k", "", models=(key_glob,)).allows("qwen", alias) == is_allowed


@pytest.mark.parametrize(
    ("glob", "matching", "others"),
    [
        ("a*", ("a", "ab", "a\n"), ("ba", "")),
        ("*", ("", "a"), ()),
        ("a?c*", ("abc", "abcd"), ("ac", "abd")),
        ("*ab*ab", ("abab", "xabab", "ababab", "abxab"), ("ab", "aba", "ababx")),
        ("a*b*c", ("abc", "a-b-b-c", "abbc-c"), ("ac", "acb", "abc-")),
    ],
)
def test_a_glob_matches_whole_names(glob: str, matching: tuple[str, ...], others: tuple[str, ...]):
    pattern = glob_pattern(glob)
    assert [name for name in (*matching, *others) if pattern.fullmatch(name)] == list(matching)


def test_no_name_takes_long_to_compare_with_a_glob():
    """This one took minutes, in which nothing else ran."""
    began = time.monotonic()
    assert not glob_pattern("*-*-*-*-x").fullmatch("-" * 512)
    assert time.monotonic() - began < 0.1


def test_the_nearest_names_are_suggested_in_whatever_case():
    names = ["qwen3-8b", "Qwen3-32B", "gemma-3-27b", "caf\u00e9"]
    assert similar_names("qwen3-8", names) == ["qwen3-8b", "Qwen3-32B"]
    assert similar_names("QWEN3_8B", names)[0] == "qwen3-8b"
    assert similar_names("cafe", names) == ["caf\u00e9"]
    assert similar_names("gpt-4o", names) == similar_names("", names) == similar_names("qwen3-8b", []) == []


def test_a_suggestion_from_ten_thousand_names_holds_nobody_up():
    names = [f"model-{number}-{'x' * (number % 400)}" for number in range(10_000)]
    began = time.process_time()
    similar_names("model-77-" + "x" * 500, names)
    assert time.process_time() - began < 1.0, "0.05 s"
