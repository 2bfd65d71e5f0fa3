"""Numbers and names as a terminal shows them."""

from __future__ import annotations

import pytest

from app.terminal.text import (
    duration_cell,
    printable,
    printable_answer,
    printable_lines,
    rate_cell,
    size_cell,
    tokens_cell,
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
    ("tokens", "text"), [(None, "-"), (512, "512"), (9318, "9.1k"), (32768, "32k"), (150_000, "146k"), (1 << 20, "1M")]
)
def test_tokens_are_counted_in_powers_of_two(tokens: int | None, text: str):
    assert tokens_cell(tokens) == text


def test_what_is_unknown_is_a_dash():
    assert [size_cell(None), duration_cell(None), tokens_cell(None), rate_cell(None)] == ["-"] * 4
    assert [size_cell(12 * GIB), duration_cell(41)] == ["12.0 GiB", "41 s"]


def test_a_rate_has_a_decimal_only_where_it_says_something():
    assert [rate_cell(rate) for rate in (None, 0, 4.24, 9.97, 58.3)] == ["-", "-", "4.2", "10", "58"]
