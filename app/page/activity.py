"""The first line of the page, the queue, the last hour, the decisions and the requests. The same as
templates/static/activity.js."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.page.text import UNKNOWN, count, duration, moment, rate, short_duration

LONG_WAIT_SECONDS = 10
_DECISION_STYLES = {"wait": "warn", "refuse": "bad", "stop": "bad"}
DAY_SECONDS = 86400


def header_view(status: Mapping[str, Any]) -> dict[str, Any]:
    """`state_class` is ok, warn or bad."""
    if status["status"] == "draining":
        state, state_class = "draining", "warn"
    else:
        state, state_class = ("degraded", "bad") if status["degraded"] else ("healthy", "ok")
    return {"state": state, "state_class": state_class, "facts": _facts(status), "reasons": status["reasons"]}


def _facts(status: Mapping[str, Any]) -> str:
    engine = status["engine"]
    speed = sum(server["tokens_per_second"] or 0 for server in status["servers"])
    parts = (
        f"version {status['version']}",
        f"{engine['kind']} {engine['version']}" if engine else "no engine",
        f"driver {status['driver_version']}" if status["driver_version"] else "",
        f"up {uptime(status['uptime_seconds'])}",
        f"{rate(speed)} tokens/s" if speed else "",
        f"{status['waiting']} waiting" if status["waiting"] else "",
    )
    return " · ".join(filter(None, parts))


def uptime(seconds: float) -> str:
    """`3 d 4 h`"""
    if seconds < 2 * DAY_SECONDS:
        return duration(seconds)
    days, rest = divmod(int(seconds), DAY_SECONDS)
    return f"{days} d {rest // 3600} h"


def queue_view(status: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row for each model and cause of waiting."""
    progress = {each["model"]: each["progress"] for each in status["servers"] if each["progress"] is not None}
    return [
        {
            "key": f"{each['model']} {each['cause']}",
            "model": each["model"],
            "requests": f"x {each['requests']}" if each["requests"] > 1 else "",
            "waited": duration(each["waited_seconds"]),
            "waited_class": "warn" if each["waited_seconds"] >= LONG_WAIT_SECONDS else "",
            "reason": each["reason"],
            "progress": f"{progress[each['model']]:.3f}" if each["model"] in progress else "",
        }
        for each in status["queue"]
    ]


def hour_view(status: Mapping[str, Any]) -> dict[str, str]:
    """The figures of the last hour, as texts."""
    hour = status["last_hour"]
    waits = (short_duration(hour[key]) for key in ("wait_median_seconds", "wait_p95_seconds"))
    return {
        "requests": count(hour["requests"]),
        "prompt_tokens": count(hour["prompt_tokens"]),
        "completion_tokens": count(hour["completion_tokens"]),
        "waits": " / ".join(waits),
        "loads": f"{hour['loads']} / {hour['evictions']}",
    }


def decisions_view(status: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "key": f"{each['at']} {each['model']}",
            **moment(each["at"]),
            "text": each["text"],
            "text_class": _DECISION_STYLES.get(each["outcome"], ""),
        }
        for each in status["decisions"]
    ]


def requests_view(status: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "key": f"{each['at']} {each['model'] or ''} {each['seconds']}",
            **moment(each["at"]),
            "model": each["model"] or "unknown",
            "path": each["path"],
            "user": each["key"] or "",
            "status": str(each["status"]) if each["status"] != 499 else "499 closed",
            "status_class": "bad" if each["status"] >= 500 else "warn" if each["status"] >= 400 else "",
            "wait": short_duration(each["wait_seconds"]),
            "first_byte": short_duration(each["first_byte_seconds"]),
            "seconds": short_duration(each["seconds"]),
            "tokens": _tokens(each),
            "speed": rate(each["tokens_per_second"]),
        }
        for each in status["requests"]
    ]


def _tokens(request: Mapping[str, Any]) -> str:
    """`9,120 → 212`: read and generated."""
    read, generated = (
        UNKNOWN if request[key] is None else f"{request[key]:,}" for key in ("prompt_tokens", "completion_tokens")
    )
    return f"{read} → {generated}"
