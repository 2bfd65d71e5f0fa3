"""The models on the page: servers first, then what could be loaded."""

from __future__ import annotations

from typing import Any

from app.page.models import model_rows
from tests.page.samples import CODER, PLAN, QUIET, a_model, busy_status
from tests.terminal.status import a_server, a_status


def rows(*servers: dict[str, Any], models: list[dict[str, Any]] | None = None) -> dict[str, dict[str, Any]]:
    plan = PLAN if models is None else {"models": models}
    return {row["key"]: row for row in model_rows(a_status(*servers, **QUIET), plan)}


def test_loaded_models_come_first_and_each_model_has_one_row_with_buttons():
    shown = model_rows(busy_status(), PLAN)
    assert [(row["key"], row["data_state"]) for row in shown] == [
        ("qwen3-14b", "ready"),
        ("qwen3-14b#2", ""),
        (CODER, "loading"),
        ("lost", "draining"),
        ("deepseek-v3", "unloaded"),
        ("broken", "failed"),
        ("phi-4", "unloaded"),
        ("gemma", "unloaded"),
        ("box2/llama", ""),
        ("down/x", ""),
    ]


def test_a_model_keeps_its_row_from_unloaded_to_ready():
    """Its key is its name, so that a button keeps the focus that loaded it."""
    model = a_model("a")
    states = [(), (a_server("a", state="starting", progress=0.5),), (a_server("a"),)]
    assert [list(rows(*servers, models=[model])) for servers in states] == [["a"], ["a"], ["a"]]


def test_a_plan_older_than_the_status_does_not_say_where_an_unloaded_model_was():
    (row,) = rows(models=[a_model("a", state="ready", outcome="loaded", text="ready on GPU 0")]).values()
    assert (row["state"], row["place"], row["data_state"]) == ("unloaded", "", "unloaded")


def test_a_model_of_a_peer_is_neither_loaded_nor_unloaded_here():
    shown = rows()
    assert [(row["state"], row["place"], row["problem"]) for row in (shown["box2/llama"], shown["down/x"])] == [
        ("at a peer", "at peer box2", ""),
        ("unavailable", "at peer down", "peer down: refused"),
    ]


def test_of_a_failed_engines_log_the_first_line_is_shown_and_all_are_folded_away():
    row = rows()["broken"]
    assert (row["state"], row["problem"], row["place"]) == ("failed", "out of memory: line 1", "")
    assert row["log"] == "line 1\nline 2"
    (short,) = rows(models=[a_model("a", state="failed", problem="exit status 1\nerror: no such flag")]).values()
    assert (short["problem"], short["log"]) == ("exit status 1: error: no such flag", "")


def test_memory_is_measured_with_its_estimate_or_said_to_be_an_estimate():
    gib = 1 << 30
    shown = rows(a_server("a", measured_bytes=12 * gib), a_server("b", id="2"), models=[])
    assert [(row["memory"], row["memory_note"]) for row in shown.values()] == [
        ("12.0 GiB", "estimate 11.0 GiB"),
        ("11.0 GiB", "estimate"),
    ]


def test_beside_the_memory_is_its_prompt_cache_and_how_fast_a_large_model_was_loaded():
    gib = 1 << 30
    load = {"size_bytes": 9 * gib, "bytes_per_second": 3 * gib}
    cached, small = a_server("a", load=load, prompt_cache_bytes=gib), a_server("b", load=load | {"size_bytes": gib - 1})
    shown = rows(cached, small, models=[])
    notes = ["estimate · prompt cache up to 1.0 GiB · loaded at 3.0 GiB/s", "estimate"]
    assert [row["memory_note"] for row in shown.values()] == notes


def test_beside_the_speed_is_how_much_of_the_drafts_was_accepted():
    drafts = {"tokens": 23300, "accepted_tokens": 15100, "accepted_percent": 65}
    busy = a_server("a", prompt_tokens_per_second=1234.0, drafts=drafts)
    shown = rows(busy, a_server("b", drafts=drafts), a_server("c", drafts=None), models=[])
    notes = ["1.2k in · 65 % of drafts accepted", "65 % of drafts accepted", ""]
    assert [row["speed_note"] for row in shown.values()] == notes


def test_only_an_idle_server_counts_down():
    busy, pinned = a_server("b", requests=1, unloads_in_seconds=None), a_server("c", pinned=True)
    shown = rows(a_server("a"), busy, pinned, models=[])
    assert [(row["idle"], row["idle_note"]) for row in shown.values()] == [
        ("4 min", "unloads in 11 min"),
        ("", ""),
        ("4 min", "pinned"),
    ]
