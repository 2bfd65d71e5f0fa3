"""One service for each state directory."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.helpers.service import serving, wait_for
from workers.state_lock import StateInUse, lock_state


def test_a_state_directory_has_one_service_until_that_ends(tmp_path: Path):
    folder = tmp_path / "state"
    held = lock_state(folder)
    assert held is not None
    with pytest.raises(
        StateInUse, match=rf"\(pid {os.getpid()}\) uses the state directory {folder}; .*STATE_DIRECTORY"
    ):
        lock_state(folder, wait_seconds=0.1)
    os.close(held)
    again = lock_state(folder, wait_seconds=0.0)
    assert again is not None, "no file is left that could keep it out"
    os.close(again)
    assert stat.S_IMODE((folder / "lock").stat().st_mode) == 0o600


def test_a_directory_that_cannot_be_written_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "file").touch()
    assert lock_state(tmp_path / "file" / "state") is None
    assert "cannot lock the state directory" in caplog.text


@pytest.mark.integration
def test_a_second_service_on_the_same_state_directory_does_not_start(tmp_path: Path):
    """Both counted the tokens of keys in one file, and each killed what the other had recorded."""
    with serving(tmp_path) as first:
        first.url  # noqa: B018 - waits until it is ready
        with serving(tmp_path) as second:
            assert second.process.wait(30) == 1
            message = f"another service (pid {first.process.pid}) uses the state directory"
            wait_for(lambda: message in second.output, 20)
