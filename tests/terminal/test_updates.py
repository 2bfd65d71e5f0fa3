"""`models --updates` in the terminal."""

from __future__ import annotations

from typing import Any

from app.terminal.updates import could_check, update_command, update_table
from tests.terminal.status import GIB


def an_update(model: str, freshness: str = "current", download_bytes: int = 0, problem: str = "") -> dict[str, Any]:
    return {"model": model, "freshness": freshness, "download_bytes": download_bytes, "problem": problem}


def test_what_is_newer_has_its_size_and_the_command():
    updates = [
        an_update("org/a-GGUF:Q4_K_M"),
        an_update("org/b-GGUF:Q8_0", "outdated", 4 * GIB),
        an_update("org/c-GGUF:Q8_0", "removed"),
        an_update("org/d-GGUF:Q8_0", "unknown", problem="the network\x1b[2J is away"),
    ]
    found = update_table(updates)
    assert found.heads == ("MODEL", "DOWNLOAD", "UPSTREAM")
    assert [row.cells[1:] for row in found.rows] == [
        ("", "current"),
        ("4.0 GiB", "newer"),
        ("", "no longer in its repository"),
        ("", "unknown: the network\\x1b[2J is away"),
    ]
    assert update_command(updates) == "update it:  llama-smart-proxy pull org/b-GGUF:Q8_0"
    assert update_command(updates[:1]) == "Nothing newer was found."
    some = [updates[0], updates[3]]
    assert update_command(some) == "Nothing newer was found. 1 of 2 models could not be checked."


def test_where_no_repository_could_be_asked_that_is_said():
    """It said that nothing newer was found."""
    updates = [an_update("org/d-GGUF:Q8_0", "unknown", problem="the server limits the requests\x1b[2J")]
    assert not could_check(updates)
    assert update_command(updates) == "Nothing could be checked: the server limits the requests\\x1b[2J"
