"""`logs` where there is nothing to print."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from app.commands.cli import main
from app.commands.service import logs


def test_an_empty_log_says_why(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logs, "find_entry", lambda url, model: {})
    monkeypatch.setattr(logs, "service_json", lambda url, path: {"lines": []})
    result = CliRunner().invoke(main, ["logs", "qwen3-8b"])
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "no log of qwen3-8b: it was not loaded since the service started\n"
    assert CliRunner().invoke(main, ["logs", "qwen3-8b", "-n", "0"]).stderr == ""
