"""Commands that talk to a running service: what they say when it does not answer."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from app.commands.cli import main


@pytest.mark.parametrize(
    ("url", "status", "message"),
    [
        ("http://127.0.0.1:9", 1, "nothing answers at http://127.0.0.1:9: start it with `llama-smart-proxy serve`"),
        ("http://no-such-host.invalid", 1, "nothing answers at http://no-such-host.invalid"),
        ("localhost:8080", 2, "begins with http:// or https://"),
        ("http://[", 2, "http://["),
    ],
)
@pytest.mark.integration
def test_without_a_service_the_command_says_where_it_looked(url: str, status: int, message: str):
    result = CliRunner().invoke(main, ["reload", "--url", url])
    assert result.exit_code == status
    assert message in result.output
