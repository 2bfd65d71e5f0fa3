"""How long an order to unload a model waits for running requests."""

from __future__ import annotations

import json
from math import inf
from typing import Any

import pytest

from app.errors import InvalidRequest
from app.request_body.grace_period import grace_seconds


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({}, inf),
        ({"force": False}, inf),
        ({"force": None, "wait_seconds": None}, inf),
        ({"force": True}, 0.0),
        ({"wait_seconds": 0}, 0.0),
        ({"wait_seconds": 2.5}, 2.5),
        ({"force": False, "wait_seconds": 30}, 30.0),
        ({"force": True, "wait_seconds": 30}, 0.0),
    ],
)
def test_running_requests_are_finished_unless_the_order_says_how_long_they_get(fields: dict[str, Any], seconds: float):
    assert grace_seconds(json.dumps({"model": "m", **fields}).encode()) == seconds
    assert grace_seconds(b"") == inf, "the address names the model"


@pytest.mark.parametrize(
    ("name", "value"),
    [("force", "true"), ("force", 1), ("wait_seconds", "5"), ("wait_seconds", -1), ("wait_seconds", True)],
)
def test_anything_else_is_an_error_that_names_the_field(name: str, value: object):
    with pytest.raises(InvalidRequest) as raised:
        grace_seconds(json.dumps({"model": "m", name: value}).encode())
    assert raised.value.param == name


def test_a_number_without_an_end_is_no_number():
    with pytest.raises(InvalidRequest):
        grace_seconds(b'{"wait_seconds": 1e999}')
