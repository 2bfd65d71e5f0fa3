"""The options in the body of POST /plan: those of the `plan` command, with the keys of the settings."""

from __future__ import annotations

from typing import Any

from app.entities.media_urls import DATA_ONLY
from app.errors import InvalidRequest
from app.request_body.buffer import Buffer
from app.request_body.json_body import read_json
from app.use_cases.launch.typed_options import CHOICES, INTEGERS, SWITCHES


def plan_options(body: Buffer) -> dict[str, Any]:
    """The options by name, without `model`. Raises InvalidRequest."""
    fields = dict(read_json(body, DATA_ONLY, may_be_a_list=False))
    return {key: _option(key, value) for key, value in fields.items() if key != "model" and value is not None}


def _option(key: str, value: object) -> object:
    if key in SWITCHES:
        if not isinstance(value, bool):
            raise InvalidRequest(f"{key} must be true or false", param=key)
    elif key in INTEGERS:
        low, high = INTEGERS[key]
        if not isinstance(value, float) or value % 1 or not low <= value <= high:  # JSON's numbers are read as floats
            raise InvalidRequest(f"{key} must be an integer from {low} to {high}", param=key)
        return int(value)
    elif key in CHOICES:
        if value not in CHOICES[key]:
            raise InvalidRequest(f"{key} must be one of {', '.join(CHOICES[key])}", param=key)
    else:
        known = ", ".join(sorted((*INTEGERS, *SWITCHES, *CHOICES)))
        raise InvalidRequest(f"unknown option {key[:100]!r}; there are: {known}", param=key[:100])
    return value
