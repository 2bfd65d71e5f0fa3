"""What is logged when a server was crashed by a request."""

from __future__ import annotations

import pytest

from tests.scheduling.test_quarantine import crashed
from workers.pool.decision_log import log_isolation


def test_suspects_and_keys_in_quarantine_are_logged_once(caplog: pytest.LogCaptureFixture):
    before = crashed("a", "b", times=2).state
    service = crashed("a", "b", "c")
    log_isolation(before, service.state)
    assert "suspect request_hash=body 2: in flight when a server crashed; runs alone the next time" in caplog.text
    assert "quarantine model=a key=killer:" in caplog.text
    caplog.clear()
    log_isolation(service.state, service.state)
    assert not caplog.text
