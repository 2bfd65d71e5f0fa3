"""The memory bars and charts."""

from __future__ import annotations

from app.page.charts import area_path, chart, line_path
from app.page.gpus import gpus_view
from tests.page.samples import HISTORY, busy_status


def test_the_parts_of_a_bar_fill_it_from_left_to_right():
    for gpu in gpus_view(busy_status(), HISTORY)["gpus"][:2]:
        ends = [float(part["x"][:-1]) + float(part["width"][:-1]) for part in gpu["bar"]]
        starts = [float(part["x"][:-1]) for part in gpu["bar"]]
        assert all(abs(start - end) < 0.02 for start, end in zip([*starts[1:], 100.0], ends, strict=True))


def test_the_legend_says_all_that_the_bar_shows():
    legend = gpus_view(busy_status(), HISTORY)["gpus"][0]["legend"]
    assert [(each["part"], each["size"], each["note"]) for each in legend] == [
        ("qwen3-14b", "11.2 GiB", ""),
        ("org/qwen3-coder-30b, loading", "5.3 GiB", ""),
        ("other processes", "4.6 GiB", "comfyui (pid 4121) 4.0 GiB, unknown (pid 9)"),
        ("reserve", "512 MiB", ""),
        ("free", "2.4 GiB", ""),
    ]


def test_a_model_has_one_colour_in_all_bars_and_replicas_share_it():
    shown = gpus_view(busy_status(), HISTORY)["gpus"][0]["bar"]
    assert [part["class"] for part in shown] == ["model c0", "claimed c1", "other", "reserve", "free"]


def test_a_part_too_small_for_a_word_is_named_in_the_legend_alone():
    ram = busy_status() | {"ram": {"total_bytes": 1000, "available_bytes": 900, "booked_bytes": 21}}
    (shown,) = gpus_view(ram, HISTORY)["ram"]
    assert [(part["class"], part["label"]) for part in shown["bar"]] == [
        ("booked", ""),
        ("other", ""),
        ("free", ""),
    ]
    assert [each["part"] for each in shown["legend"]] == ["models", "other processes", "free"]


def test_a_missing_gpu_says_why():
    missing = gpus_view(busy_status(), HISTORY)["gpus"][-1]
    assert (missing["title"], missing["problem"], missing["bar"]) == ("GPU 2", "the driver has lost it", ())


def test_without_a_gpu_it_says_why_and_how_to_find_out_more():
    note = gpus_view(busy_status() | {"gpus": [], "missing_gpus": [], "gpus_problem": "no driver"}, HISTORY)["note"]
    assert note == "None: no driver. If there should be one: llama-smart-proxy doctor."


def test_an_unknown_value_is_a_gap_and_the_last_one_is_at_the_right_edge():
    # 28 high, of which 1.5 stay free: 100 % is at 1.5, 0 % at 28, 50 % at 14.75.
    assert line_path([100, 0, None, 50], 100) == "M116,1.5L117,28.0M119,14.8h.01"
    assert area_path([100, 0], 100) == "M118,28L118,1.5L119,28.0V28Z"


def test_a_chart_without_a_known_maximum_ends_at_its_own():
    assert chart("Power", "50 W", [100, 50], None)["line"] == line_path([100, 50], 100)
    assert chart("Power", "–", [None, None], None)["line"] == ""  # noqa: RUF001
