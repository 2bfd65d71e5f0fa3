"""How far the load of one model is, from GET /status."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from app.terminal.servers import state_text
from app.terminal.text import duration_cell, printable, size_cell


def loading_text(status: Mapping[str, Any], models: Collection[str]) -> str:
    """`qwen3-14b: loading 64 % on cuda:0`, or what it waits for; "" if none of the models loads or waits."""
    for server in status.get("servers", ()):
        if server["model"] in models and server["state"] == "starting":
            return f"{printable(server['model'])}: {state_text(server)} on {printable(server['device'])}"
    for waiting in status.get("queue", ()):
        if waiting["model"] in models:
            waited = duration_cell(waiting["waited_seconds"])
            return f"{printable(waiting['model'])}: waiting ({waited}): {printable(waiting['reason'])}"
    return ""


def unloading_text(status: Mapping[str, Any], model: str) -> str:
    """Which requests an unload waits for; "" if none."""
    requests = sum(server["requests"] for server in status.get("servers", ()) if server["model"] == model)
    which = "a request" if requests == 1 else f"{requests} requests"
    return f"{printable(model)}: waiting for {which} to end; --force ends them now" if requests else ""


def loaded_text(name: str, server: Mapping[str, Any], seconds: float | None) -> str:
    """`seconds`: None if it was loaded before. `server`: {} if it has gone again."""
    place = f" on {printable(server['device'])}" if server.get("device") else ""
    memory = server.get("measured_bytes") or server.get("estimated_bytes")
    took = "as before" if seconds is None else f"after {seconds:.1f} s"
    return f"{printable(name)} is ready{place}, {took}" + (f": {size_cell(memory)}" if memory else "")
