"""The head of an inference answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from app.routes.answer_head import answer_head


@pytest.mark.parametrize("engines", [[], [("X-Accel-Buffering", "no")], [("x-accel-buffering", "no")]])
def test_a_stream_says_once_that_proxies_must_not_buffer_it(engines: list[tuple[str, str]]):
    """The engine says so too; twice is a list of two values."""
    answer: Any = SimpleNamespace(status=200, headers=engines, is_stream=True)
    _, headers = answer_head(answer, "m", "cpu", 0.0, "r")
    assert [value for name, value in headers if name.lower() == "x-accel-buffering"] == ["no"]
