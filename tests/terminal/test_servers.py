"""`ps`: the servers as a table, and the lines below it."""

from __future__ import annotations

from typing import Any

import pytest

from app.terminal.loading import loaded_text, loading_text, unloading_text
from app.terminal.servers import server_table, service_notes
from tests.terminal.status import GIB, a_peer, a_server, a_status, a_waiting


def cells(*servers: dict[str, Any]) -> list[dict[str, str]]:
    table = server_table(a_status(*servers))
    return [dict(zip(table.heads, row.cells, strict=True)) for row in table.rows]


def test_a_busy_server_says_what_it_does():
    busy = a_server(
        requests=2, slots_busy=2, context_used_tokens=9318, tokens_per_second=58.2, measured_bytes=int(11.2 * GIB)
    )
    assert cells(busy, a_server("gemma-3-4b"))[0] == {
        "MODEL": "qwen3-14b",
        "STATE": "ready",
        "DEVICE": "cuda:0",
        "SLOTS": "2/4",
        "CONTEXT": "9.1k of 32k",
        "MEMORY": "11.2 GiB",
        "TOKENS/S": "58",
        "IDLE": "",
        "UNLOADS": "",
    }


def test_an_idle_server_says_when_it_is_unloaded():
    (row,) = cells(a_server())
    assert (row["SLOTS"], row["CONTEXT"], row["MEMORY"]) == ("0/4", "32k", "~11.0 GiB")
    assert (row["IDLE"], row["UNLOADS"]) == ("4 min", "in 11 min")


def test_a_pinned_server_is_not_unloaded():
    assert cells(a_server(pinned=True, unloads_in_seconds=None))[0]["UNLOADS"] == "pinned"


@pytest.mark.parametrize(("progress", "text"), [(None, "loading"), (0.64, "loading 64 %")])
def test_a_loading_server_has_no_slots_yet(progress: float | None, text: str):
    (row,) = cells(a_server(state="starting", progress=progress))
    assert (row["STATE"], row["SLOTS"]) == (text, "-")


def test_a_column_without_a_value_is_left_out():
    assert "IDLE" not in cells(a_server(requests=1))[0]
    assert "IDLE" in server_table(a_status(a_server(requests=1)), keeps_columns=True).heads


def test_replicas_are_told_apart():
    assert [row["MODEL"] for row in cells(a_server(id="1"), a_server(id="2"), a_server("phi-4", id="3"))] == [
        "qwen3-14b #1",
        "qwen3-14b #2",
        "phi-4",
    ]


def test_below_the_table_is_who_waits_and_what_is_wrong():
    status = a_status(
        a_server(full_ctx_size=65536),
        a_server("phi-4", problem="did not\x1b[2J answer"),
        queue=[a_waiting(), a_waiting("one", requests=1)],
        reasons=["GPU 1 is missing"],
        status="draining",
    )
    assert list(service_notes(status)) == [
        "waiting: llama-3.3-70b x 2 (41 s): waits for qwen3-14b to finish",
        "waiting: one (41 s): waits for qwen3-14b to finish",
        r"phi-4: did not\x1b[2J answer",
        "qwen3-14b: has 32k of context instead of 64k, because other processes hold memory",
        "The service is draining: it takes no more requests.",
        "degraded: GPU 1 is missing",
    ]


def test_a_load_says_how_far_it_is_or_what_it_waits_for():
    loading = a_status(a_server("a", state="starting", progress=0.64))
    assert loading_text(loading, ["a", "b"]) == "a: loading 64 % on cuda:0"
    assert loading_text(loading, ["b"]) == ""
    assert loading_text(a_status(queue=[a_waiting("b")]), ["b"]) == ("b: waiting (41 s): waits for qwen3-14b to finish")
    assert loading_text({}, ["a"]) == ""


def test_an_unload_says_which_requests_it_waits_for():
    status = a_status(a_server(requests=1), a_server(requests=1), a_server("phi-4", requests=5))
    assert unloading_text(status, "qwen3-14b") == "qwen3-14b: waiting for 2 requests to end; --force ends them now"
    assert unloading_text(status, "none") == ""


def test_a_loaded_model_says_where_it_is_and_how_long_that_took():
    assert loaded_text("a", a_server(), 2.71) == "a is ready on cuda:0, after 2.7 s: 11.0 GiB"
    assert loaded_text("a", a_server(), None) == "a is ready on cuda:0, as before: 11.0 GiB"
    assert loaded_text("a", {}, 2.71) == "a is ready, after 2.7 s"


def test_each_peer_has_a_line():
    down = a_peer("new\x1b[1m", models=None, breaker="open", retry_in_seconds=12.0, problem="no\x1b[2J answer")
    assert list(service_notes(a_status(peers=[a_peer(requests=3), a_peer(models=1, problem="x"), down]))) == [
        "peer box2: answers, 2 models, 3 requests",
        "peer box2: has a problem, 1 model: x",
        "peer new\\x1b[1m: does not answer, its models are not known yet, tried in 12 s: no\\x1b[2J answer",
    ]
