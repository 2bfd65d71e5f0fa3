"""`top`: what fits on the terminal, drawn by rich."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from app.commands.service.keyboard import DOWN, UP, keys_of
from app.terminal.bars import BarPart, bar, shares, sparkline
from app.terminal.dashboard import Screen, dashboard, divided, selected_server, unload_question
from tests.terminal.status import GIB, a_gpu, a_segment, a_server, a_status, a_waiting

NOW = datetime(2026, 12, 2, 12, 0, tzinfo=UTC)
LONG_NAME = "unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF:Q4_K_M"


def a_busy_status(**values: Any) -> dict[str, Any]:
    gpus = [
        a_gpu(
            0,
            a_segment("model", 11.2, "qwen3-14b"),
            a_segment("model", 5.1, "gemma-3-4b"),
            a_segment("other", 3),
            a_segment("reserve", 0.5),
            a_segment("free", 4.2),
        ),
        a_gpu(
            1,
            a_segment("model", 7, LONG_NAME),
            a_segment("claimed", 8, LONG_NAME),
            a_segment("free", 9),
            name="NVIDIA GeForce RTX 3090",
            utilization_percent=None,
            power_watts=None,
        ),
    ]
    servers = [
        a_server(requests=2, slots_busy=2, context_used_tokens=9318, tokens_per_second=58.2, measured_bytes=12 * GIB),
        a_server("gemma-3-4b"),
        a_server(LONG_NAME, state="starting", progress=0.64, device="cuda:1"),
    ]
    decisions = [
        {"at": NOW.timestamp() - 60 * age, "model": "a", "outcome": "place", "text": f"decision {age}"}
        for age in range(8)
    ]
    return a_status(*servers, **{"gpus": gpus, "queue": [a_waiting()], "waiting": 2, "decisions": decisions} | values)


def drawn(status: dict[str, Any], screen: Screen) -> list[str]:
    out = io.StringIO()
    console = Console(
        file=out,
        width=screen.width,
        force_terminal=screen.is_colored,
        color_system="standard" if screen.is_colored else None,
        highlight=False,
    )
    console.print(dashboard(status, "http://127.0.0.1:8080", screen, NOW))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_80_columns_have_the_whole():
    assert drawn(a_busy_status(), Screen(80, 20, is_colored=False)) == [
        "llama-smart-proxy 0.1.0  ok  58 tokens/s  2 waiting  up 2 h  http://127.0.0.1:8…",
        "GPU 0 RTX 4090 [qwen3-14b####gemm#oth+.....]  19.3/24.0 GiB   63 %  61 °C  287 W",
        "GPU 1 RTX 3090 [Qwen3-C#/////////..........]  15.0/24.0 GiB    - %  61 °C    - W",
        "RAM            [#other+....................]  16.0/64.0 GiB",
        "",
        "MODEL                      STATE         SLOTS  CONTEXT         MEMORY  TOKENS/S",
        "qwen3-14b                  ready         2/4    9.1k of 32k   12.0 GiB        58",
        "gemma-3-4b                 ready         0/4    32k          ~11.0 GiB         -",
        "unsloth/Qwen…-GGUF:Q4_K_M  loading 64 %  -      32k          ~11.0 GiB         -",
        "",
        "waiting: llama-3.3-70b x 2 (41 s): waits for qwen3-14b to finish",
        "",
        "11:56:00  decision 4",
        "11:57:00  decision 3",
        "11:58:00  decision 2",
        "11:59:00  decision 1",
        "12:00:00  decision 0",
        "",
        "",
        "q quit  ↑↓ select  l log  u unload",
    ]


@pytest.mark.parametrize("height", [4, 6, 8, 12, 16, 24, 60])
@pytest.mark.parametrize("width", [60, 80, 129, 130, 200])
def test_every_size_is_filled_and_none_is_exceeded(width: int, height: int):
    status = a_busy_status(missing_gpus=[{"index": 2, "name": "x", "uuid": "y", "problem": "fell off\nthe bus"}])
    lines = drawn(status, Screen(width, height, is_colored=False))
    assert len(lines) == height
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("llama-smart-proxy 0.1.0")
    assert lines[-1].startswith("q quit")


def test_the_selected_server_is_among_those_that_fit():
    status = a_status(*(a_server(f"model-{number}") for number in range(40)))
    lines = drawn(status, Screen(80, 12, is_colored=False, selected=30))
    assert any(line.startswith("model-30 ") for line in lines)
    assert not any(line.startswith("model-31 ") for line in lines)


def test_a_selection_behind_the_last_server_is_the_last():
    status = a_status(a_server("a"), a_server("b"))
    assert (selected_server(status, 7) or {})["model"] == "b"
    assert selected_server(a_status(), 0) is None
    assert len(drawn(status, Screen(80, 12, is_colored=False, selected=7))) == 12


def test_printed_once_it_has_all_lines_and_no_keys():
    lines = drawn(a_busy_status(), Screen(200, None, is_colored=False))
    assert not any("quit" in line for line in lines)
    assert sum("decision" in line for line in lines) == 5


def test_a_name_is_neither_markup_nor_a_command():
    name = "[red]x[/red]\x1b[2J"
    gpu = a_gpu(0, a_segment("model", 20, name), a_segment("free", 4))
    status = a_status(a_server(name), gpus=[gpu], queue=[a_waiting(name)], reasons=[name])
    text = "\n".join(drawn(status, Screen(200, 30, is_colored=False)))
    assert "\x1b" not in text
    assert text.count(r"[red]x[/red]\x1b[2J") == 3


def test_colour_shows_whose_the_memory_is():
    first = drawn(a_busy_status(), Screen(80, 24, is_colored=True))[1]
    assert "\x1b[37;44mqwen3-14b" in first
    assert "\x1b[37;45mgemm" in first
    assert "#" not in first


def test_an_admin_may_unload_and_others_are_not_offered_it():
    assert "u unload" in drawn(a_status(), Screen(80, 9, is_colored=False))[-1]
    assert "u unload" not in drawn(a_status(admin=False), Screen(80, 9, is_colored=False))[-1]


def test_an_unload_is_asked_about_with_what_it_waits_for():
    assert unload_question(a_server()) == "unload qwen3-14b? y/n"
    assert unload_question(a_server(requests=2)) == "unload qwen3-14b once 2 running requests ended? y/n"


def test_the_last_blocks_become_shorter_first():
    wanted, least = [1, 4, 6, 3, 5], [1, 2, 4, 1, 0]
    assert divided(None, wanted, least) == (1, wanted)
    assert divided(23, wanted, least) == (1, wanted)
    assert divided(22, wanted, least) == (0, wanted)
    assert divided(16, wanted, least) == (0, [1, 4, 6, 3, 2])
    assert divided(10, wanted, least) == (0, [1, 4, 4, 1, 0])
    assert divided(5, wanted, least) == (0, [1, 2, 2, 0, 0])
    assert divided(0, wanted, least) == (0, [0, 0, 0, 0, 0])


def test_the_parts_of_a_bar_are_as_wide_as_the_bar():
    assert shares([1, 1, 1], 10) == [3, 4, 3]
    assert shares([], 10) == []
    assert shares([0, 0], 10) == [0, 10]
    segments = [BarPart("model", "user/模型-8b", 5), BarPart("other", "other", 0), BarPart("free", "free", 5)]
    for cells in range(3, 40):
        assert bar(segments, cells, is_colored=False).cell_len == cells


def test_a_sparkline_ends_with_the_newest_value():
    assert sparkline([None, 0, 50, 100], 6) == "   ▁▅█"
    assert sparkline([0, 50, 100], 2) == "▅█"


def test_keys_may_arrive_together():
    assert keys_of("\x1b[A\x1bOBuq\x1b[15~\x1b\x1b[5~y") == [UP, DOWN, "u", "q", "y"]
