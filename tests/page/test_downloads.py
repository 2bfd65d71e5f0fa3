"""The downloads on the page."""

from __future__ import annotations

from typing import Any

from app.page.downloads import downloads_view
from tests.page.samples import DOWNLOADS, QUIET
from tests.terminal.status import a_download, a_status


def row(**download: Any) -> dict[str, str]:
    (shown,) = downloads_view(a_status(**QUIET, downloads=[a_download(**download)]))
    return shown


def test_a_running_download_shows_its_rate_and_what_is_left():
    shown = row()
    assert shown["state"] == "downloading 57 %"
    assert shown["facts"] == "4.8 GiB of 8.4 GiB · 92 MiB/s · 40 s left · tiny-Q4_K_M.gguf"


def test_what_is_not_known_yet_is_left_out():
    shown = row(total_bytes=None, bytes_per_second=None, seconds_left=None, file="", done_bytes=3 << 20)
    assert (shown["state"], shown["facts"], shown["progress"]) == ("downloading", "3 MiB", "0.000")


def test_almost_all_is_not_100_percent():
    assert row(total_bytes=1000, done_bytes=999)["state"] == "downloading 99 %"


def test_rows_keep_the_order_and_say_which_button_they_get():
    states = [(each["model"], each["data_state"]) for each in downloads_view({"downloads": DOWNLOADS})]
    assert states == [
        ("org/new-GGUF", "running"),
        ("org/tiny-GGUF:Q4_K_M", "running"),
        ("org/sum-GGUF:Q8_0", "running"),
        ("org/unknown:x.gguf", "running"),
        ("org/done:Q4_K_M", "complete"),
        ("org/gated-GGUF", "ended"),
        ("org/left-GGUF:Q6_K", "ended"),
    ]


def test_a_failure_is_told_as_one_and_a_wait_as_a_warning():
    assert row(state="failed", problem="gated")["problem_class"] == "bad"
    assert row(problem="waits 30 s: too many requests")["problem_class"] == "warn"


def test_what_a_canceled_download_fetched_is_said_to_be_kept():
    assert row(state="canceled")["facts"] == "4.8 GiB of 8.4 GiB · the partial download is kept"
    assert row(state="canceled", done_bytes=0)["facts"] == ""
