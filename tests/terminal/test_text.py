"""Numbers and names as a terminal shows them."""

from __future__ import annotations

import pytest

from app.terminal.text import (
    bytes_text,
    duration_text,
    printable,
    printable_answer,
    printable_lines,
    rate_text,
    tokens_text,
)

GIB = 1 << 30


def test_a_name_cannot_command_the_terminal():
    assert printable("a\x1b]0;title\x07b\n\x9b2J") == r"a\x1b]0;title\x07b\n\x9b2J"


def test_a_name_cannot_hide_what_it_says():
    assert printable("a\u202eb\u200bc\ud800") == r"a\u202eb\u200bc\ud800"


@pytest.mark.parametrize("name", ["qwen3-8b", "user/repo:Q4_K_M", "modèle", "模型", "\U0001f999", r"a\x1b", "[bold]"])
def test_an_ordinary_name_is_shown_as_it_is(name: str):
    assert printable(name) == name


def test_a_log_keeps_its_lines():
    assert printable_lines("one\n\ttwo\x1b[2J\r\n") == "one\n        two" + r"\x1b[2J"


def test_an_answer_may_have_any_character_but_those_that_a_terminal_obeys():
    assert printable_answer("one\r\n\ttwo \U0001f468\u200d\U0001f469 \x1b[2J") == (
        "one\n\ttwo \U0001f468\u200d\U0001f469 " + r"\x1b[2J"
    )


@pytest.mark.parametrize(
    ("size", "text"),
    [(None, "-"), (0, "0.0 KiB"), (258 << 20, "258 MiB"), (11.2 * GIB, "11.2 GiB"), (377 * GIB, "377 GiB")],
)
def test_a_size_has_three_digits_and_its_unit(size: float | None, text: str):
    assert bytes_text(size) == text


@pytest.mark.parametrize(
    ("tokens", "text"), [(None, "-"), (512, "512"), (9318, "9.1k"), (32768, "32k"), (1 << 20, "1M")]
)
def test_tokens_are_counted_in_powers_of_two(tokens: int | None, text: str):
    assert tokens_text(tokens) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.4, "0 s"), (41.9, "41 s"), (299, "4 min"), (7200, "2 h"), (7500, "2 h 5 min"), (260_000, "3 d")],
)
def test_a_duration_has_the_units_that_matter(seconds: float | None, text: str):
    assert duration_text(seconds) == text


def test_a_rate_has_a_decimal_only_where_it_says_something():
    assert [rate_text(rate) for rate in (None, 0, 4.24, 58.3)] == ["-", "-", "4.2", "58"]
