"""`models` and `show`."""

from __future__ import annotations

from typing import Any

import pytest

from app.terminal.models import memory_facts, model_lines, model_table, now_text, parameters_text
from tests.terminal.status import GIB, a_model

LOADED: dict[str, Any] = {"state": "ready", "outcome": "loaded", "text": "ready on GPU 0", "needed_bytes": None}


def test_a_model_says_what_it_is_and_where():
    (row,) = model_table([a_model(**LOADED)]).rows
    assert row.cells == ("qwen3-14b", "Q4_K_M", "8.4 GiB", "chat tools", "32k", "ready on GPU 0")
    assert row.style == "green"


def test_a_broken_model_says_why():
    broken = a_model(quant="", ctx_size=None, capabilities=[], outcome=None, text="", problem="cut off\x07")
    (row,) = model_table([broken]).rows
    assert row.cells[1:] == ("-", "8.4 GiB", "-", "-", r"cut off\x07")
    assert row.style == "red"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"pinned": True}, "ready on GPU 0, pinned"),
        ({"text": "", "outcome": None, "state": "unloaded"}, "unloaded"),
    ],
)
def test_now_is_where_it_is_or_would_go(values: dict[str, Any], text: str):
    assert now_text(a_model(**LOADED | values)) == text


def test_a_model_in_full():
    entry = {
        "id": "qwen3-14b",
        "aliases": ["gpt-4o-mini"],
        "source": "ollama",
        "status": {"value": "loaded", "args": ["llama-server", "--port", "1"]},
        "size": 9 * GIB,
        "context_length": 32768,
        "capabilities": ["completion", "chat"],
        "meta": {"n_ctx_train": 40960, "n_params": 14_800_000_000, "ftype": "Q4_K_M", "architecture": "qwen3"},
        "placement": {"device": "cuda:0"},
        "estimate": {
            "devices": [{"weights_bytes": 8 * GIB, "context_bytes": 2 * GIB, "compute_bytes": 0, "total_bytes": 1}],
            "host": {"weights_bytes": GIB, "context_bytes": 0, "compute_bytes": 0},
        },
    }
    assert list(model_lines(entry, "ready on GPU 0")) == [
        "qwen3-14b",
        "  now               ready on GPU 0",
        "  aliases           gpt-4o-mini",
        "  found in          Ollama",
        "  can               chat",
        "  quantization      Q4_K_M",
        "  size              9.0 GiB",
        "  parameters        14.8 B",
        "  architecture      qwen3",
        "  context           32k for one request, trained on 40k",
        "  device            cuda:0",
        "  estimate, cuda:0  weights 8.0 GiB, context 2.0 GiB",
        "  estimate, RAM     weights 1.0 GiB",
        "  command line      llama-server --port 1",
    ]


def test_why_a_model_cannot_be_served_is_said_once():
    entry = {"id": "cut", "status": {"value": "failed", "message": "cut off"}}
    assert list(model_lines(entry, "cut off, pinned")) == ["cut", "  now  cut off, pinned"]
    assert list(model_lines(entry, "")) == ["cut", "  now      failed", "  problem  cut off"]


def test_of_an_engines_log_the_table_has_one_line_and_show_has_all():
    problem = "exit status 1\nerror: out of memory\nerror: failed to load"
    now = now_text(a_model(problem=problem))
    assert now == "exit status 1: error: out of memory"
    entry = {"id": "m", "status": {"value": "failed", "message": problem}}
    assert list(model_lines(entry, now))[2:] == [
        "  problem  exit status 1",
        "           error: out of memory",
        "           error: failed to load",
    ]


def test_an_estimate_names_the_gpus_that_the_model_is_on():
    devices = [{"weights_bytes": size * GIB} for size in (3, 1)]
    estimate = {"devices": devices, "host": {"weights_bytes": GIB}}
    assert list(memory_facts(estimate, "cuda:0,2")) == [
        ("estimate, cuda:0", "weights 3.0 GiB"),
        ("estimate, cuda:2", "weights 1.0 GiB"),
        ("estimate, RAM", "weights 1.0 GiB"),
    ]


@pytest.mark.parametrize(
    ("number", "text"), [(None, "-"), (782_656, "783 k"), (8_190_735_360, "8.2 B"), (671 * 10**9, "671 B"), (42, "42")]
)
def test_parameters_are_counted_in_thousands(number: int | None, text: str):
    assert parameters_text(number) == text
