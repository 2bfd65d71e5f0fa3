"""The downloads on the page: those that run with how far they are, then those that ended lately.

The same as templates/static/downloads.js.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.page.text import duration, size

_STYLES = {"complete": "ok", "failed": "bad", "canceled": ""}
_KEPT = "the partial download is kept"


def downloads_view(status: Mapping[str, Any]) -> list[dict[str, str]]:
    """`data_state` chooses a row's button: running, ended (before the last byte) or complete."""
    return [
        {
            "key": f"{each['model']} {each['started_at']}",
            "model": each["model"],
            "data_state": _data_state(each["state"]),
            "state": each["state"] + _percent(each),
            "state_class": _STYLES.get(each["state"], "warn"),
            "progress": f"{_share(each):.3f}" if each["state"] in ("downloading", "verifying") else "",
            "facts": " · ".join(filter(None, _facts(each))),
            "problem": each["problem"],
            "problem_class": "bad" if each["state"] == "failed" else "warn",
        }
        for each in status["downloads"]
    ]


def _data_state(state: str) -> str:
    if state == "complete":
        return "complete"
    return "ended" if state in ("failed", "canceled") else "running"


def _share(download: Mapping[str, Any]) -> float:
    total = download["total_bytes"]
    return min(1.0, download["done_bytes"] / total) if total else 0.0


def _percent(download: Mapping[str, Any]) -> str:
    is_known = download["state"] == "downloading" and download["total_bytes"]
    return f" {int(100 * _share(download))} %" if is_known else ""


def _facts(download: Mapping[str, Any]) -> tuple[str, ...]:
    """`("4.8 GiB of 8.4 GiB", "92 MiB/s", "40 s left", "model-Q4_K_M.gguf")`"""
    state, total = download["state"], download["total_bytes"]
    sizes = (size(download["done_bytes"]), size(total) if total else "")
    done = " of ".join(filter(None, sizes))
    if state == "downloading":
        rate, left = download["bytes_per_second"], download["seconds_left"]
        speed = f"{size(rate)}/s" if rate else ""
        return done, speed, "" if left is None else f"{duration(left)} left", download["file"]
    if state == "complete":
        return (sizes[1],)
    if state == "verifying":
        return (done,)
    return (done, _KEPT) if _data_state(state) == "ended" and download["done_bytes"] else ()
