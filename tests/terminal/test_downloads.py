"""Downloads in the terminal: their progress, their end, and the quants of a repository."""

from __future__ import annotations

from typing import Any

import pytest

from app.terminal.downloads import end_text, next_step, progress_facts, progress_line, quant_table, stopped_text
from app.terminal.servers import service_notes
from tests.terminal.status import GIB, a_status

MIB = 1 << 20
NAME = "unsloth/Qwen3-14B-GGUF:Q4_K_M"


def a_download(state: str = "downloading", **values: Any) -> dict[str, Any]:
    """As in GET /status; figures invented."""
    return {
        "model": NAME,
        "state": state,
        "total_bytes": int(8.4 * GIB),
        "done_bytes": int(4.8 * GIB),
        "bytes_per_second": 92.0 * MIB,
        "seconds_left": 40.1,
        "file": "Qwen3-14B-Q4_K_M.gguf",
        "problem": "",
        "started_at": 1.0,
    } | values


def a_quant(quant: str, **values: Any) -> dict[str, Any]:
    """As POST /models/pull with `plan` gives it; figures invented."""
    return {
        "name": f"unsloth/Qwen3-14B-GGUF:{quant}",
        "quant": quant,
        "size_bytes": int(8.4 * GIB),
        "needed_bytes": int(13.1 * GIB),
        "ctx_size": 32768,
        "outcome": "place",
        "text": "fits GPU 0",
        "evict": [],
        "fits": True,
        "recommended": False,
        "downloaded": False,
        "problem": "",
    } | values


def test_the_progress_has_a_bar_the_bytes_the_rate_and_the_rest():
    bar = "#" * 16 + "." * 12  # 28 cells, of which 57 % are full
    facts = " 57 %  4.8 of 8.4 GiB  92 MiB/s  40 s left"
    assert progress_line(a_download(), 120) == f"{NAME}  {bar}  {facts}"


def test_a_check_has_no_bar():
    assert progress_line(a_download("checking"), 120) == f"{NAME}  checking its files"


@pytest.mark.parametrize("columns", [40, 60, 80, 100])
def test_a_narrow_terminal_gets_one_line(columns: int):
    line = progress_line(a_download(), columns)
    assert len(line) < columns and (columns < 80 or "40 s left" in line)


def test_what_is_not_known_is_left_out_and_a_wait_says_why():
    start = a_download(total_bytes=None, done_bytes=2 * MIB, bytes_per_second=None, seconds_left=None)
    assert progress_facts(start) == ["2 MiB"]
    assert progress_facts(a_download("checking", total_bytes=None)) == ["checking its files"]
    waits = a_download(problem="the connection failed; trying again in 4 s")
    assert progress_facts(waits) == [" 57 %", "4.8 of 8.4 GiB", "the connection failed; trying again in 4 s"]
    assert progress_facts(a_download("verifying")) == ["verifying the checksums"]


def test_the_end_says_what_became_of_it():
    assert end_text(a_download("complete"), 93.2) == f"{NAME} is downloaded: 8.4 GiB, after 93 s"
    assert end_text(a_download("complete"), 0.1) == f"{NAME} is downloaded: 8.4 GiB"
    kept = "canceled at 4.8 of 8.4 GiB; the partial download is kept, and the same command resumes it"
    assert end_text(a_download("canceled"), 9) == f"{NAME}: {kept}"
    assert end_text(a_download("canceled", total_bytes=None, done_bytes=0), 9) == f"{NAME}: canceled"
    failed = a_download("failed", problem="the disk has 2.1 GiB free, and 8.4 GiB are needed")
    assert end_text(failed, 9) == "the disk has 2.1 GiB free, and 8.4 GiB are needed"


def test_a_check_that_is_stopped_has_nothing_to_keep():
    assert stopped_text(a_download("checking", total_bytes=None, done_bytes=0), True) == f"{NAME}: stopped"


def test_ps_has_a_line_of_each_download_that_runs():
    """It said nothing but that no model is loaded."""
    downloads = [a_download(), a_download("complete"), a_download("checking", total_bytes=None)]
    assert list(service_notes(a_status(downloads=downloads))) == [
        f"downloading: {NAME}: 57 %, 4.8 of 8.4 GiB, 92 MiB/s, 40 s left",
        f"downloading: {NAME}: checking its files",
    ]


def test_a_name_cannot_command_the_terminal():
    hostile = a_download(model="x/y:\x1b[2J")
    assert "\x1b" not in progress_line(hostile, 120) + end_text(hostile, 0)


def test_the_quants_of_a_repository_are_a_table_with_a_recommendation():
    quants = [
        a_quant("Q8_0", outcome="evict", text="fits GPU 0, would evict gemma-3-4b", evict=["gemma-3-4b"]),
        a_quant("Q4_K_M", recommended=True),
        a_quant("Q2_K", downloaded=True),
        a_quant("BF16", outcome="", text="", needed_bytes=None, problem="its header is damaged"),
    ]
    found = quant_table(quants)
    assert found.heads == ("QUANT", "SIZE", "NEEDS", "CONTEXT", "NOW")
    assert [row.cells[0] for row in found.rows] == ["Q8_0", "Q4_K_M", "Q2_K", "BF16"]
    assert found.rows[1].cells == ("Q4_K_M", "8.4 GiB", "13.1 GiB", "32k", "fits GPU 0   <- recommended")
    assert found.rows[2].cells[-1] == "fits GPU 0 (downloaded)"
    assert (found.rows[3].cells[-1], found.rows[3].style) == ("its header is damaged", "red")
    assert next_step(quants) == f"pull it:  llama-smart-proxy pull {NAME}"


def test_the_next_step_fits_what_there_is():
    here = [a_quant("Q4_K_M", recommended=True, downloaded=True)]
    assert next_step(here) == f"chat with it:  llama-smart-proxy run {NAME}"
    assert next_step([a_quant("Q4_K_M")]) == "None of them fits this machine with 32k of context."
    assert next_step([a_quant("Q4_K_M", outcome=None)]) == "None of them could be planned."
