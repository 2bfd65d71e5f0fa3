"""The body of POST /plan: only an admin's patterns are tried, because matching one can take any time."""

from __future__ import annotations

import json

import pytest

from app.errors import InvalidRequest
from app.request_body.plan_options import plan_options


def test_patterns_are_an_admins():
    body = json.dumps({"model": "m", "ctx_size": 4096, "args": ["-ot", "exps=CPU"]}).encode()
    found = plan_options(body, is_admin=True)
    assert (found["ctx_size"], found["args"].words) == (4096, ("-ot", "exps=CPU"))
    with pytest.raises(InvalidRequest, match="-ot cannot be used here"):
        plan_options(body, is_admin=False)
