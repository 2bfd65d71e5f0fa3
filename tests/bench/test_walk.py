"""What bench.walk counts: the files a request comes through, and how often it changes from one to another."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

import pytest

from app.errors import ModelNotFound
from bench.walk import ROOT, followed, walked, walks


def test_changes_are_counted_on_each_thread():
    lines = ["request_0\ta\t1", "request_0\ta\t1", "server-1\tb\t1", "request_0\ta\t0", "request_0\tc\t1"]
    seen = walks(lines)
    assert seen["request"].entered == {"a": 1, "c": 1} and seen["request"].calls == {"a": 3, "c": 1}
    assert seen["request"].through_libraries == 3
    assert seen["server"].entered == {"b": 1}
    assert seen["all"].entered.total() == 3


@pytest.mark.integration
def test_a_refused_request_is_followed_to_the_error_it_ends_in(tmp_path: Path):
    calls = tmp_path / "calls"
    with walked(tmp_path, calls) as service:
        assert service.url
        lines = followed(calls, lambda: service.chat("no-such-model"), 404)
    seen = walks(lines)["request"]
    assert os.path.relpath(inspect.getfile(ModelNotFound), ROOT) in seen.calls
    assert 5 < len(seen.calls) <= seen.entered.total() < seen.calls.total()
