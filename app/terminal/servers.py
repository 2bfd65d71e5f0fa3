"""The servers of GET /status as a table, and what is below it: who waits, and what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from app.terminal.downloads import download_line, is_running
from app.terminal.table import Table, TableRow, table
from app.terminal.text import UNKNOWN, duration_cell, printable, rate_cell, size_cell, tokens_cell
from app.use_cases.reporting.phrases import SHOWN_LOAD_BYTES

STYLES = {"ready": "green", "starting": "yellow", "draining": "yellow", "stopping": "yellow", "failed": "red"}
# Columns, the first one first; of `ps`, which has no bars, and of the dashboard.
EXPENDABLE_ALONE = ("CACHE", "UNLOADS", "IDLE", "TOKENS/S", "SLOTS", "CONTEXT", "MEMORY", "DEVICE")
EXPENDABLE = ("CACHE", "UNLOADS", "DEVICE", "IDLE", "MEMORY", "CONTEXT", "SLOTS", "TOKENS/S")


BREAKERS = {"closed": "answers", "half_open": "is tried", "open": "does not answer"}


def server_table(status: Mapping[str, Any], keeps_columns: bool = False) -> Table:
    """`keeps_columns`: those without a value too, so that they do not move as time goes on."""
    heads, servers = "MODEL STATE DEVICE SLOTS CONTEXT MEMORY CACHE TOKENS/S IDLE UNLOADS", status["servers"]
    replicas = Counter(server["model"] for server in servers)
    rows = (_row(server, replicas[server["model"]] > 1) for server in servers)
    return table(heads, rows, numbers="MEMORY CACHE TOKENS/S", styled="STATE", keeps_columns=keeps_columns)


def _row(server: Mapping[str, Any], is_replica: bool) -> TableRow:
    cells = (
        printable(server["model"]) + (f" #{printable(server['id'])}" if is_replica else ""),
        state_text(server),
        printable(server["device"] or UNKNOWN),
        f"{server['slots_busy']}/{server['slots']}" if server["state"] in ("ready", "draining") else UNKNOWN,
        _context_text(server),
        _memory_text(server),
        size_cell(cache) if (cache := server.get("prompt_cache_bytes")) else "",
        rate_cell(server["tokens_per_second"]),
        _idle_text(server),
        _unloads_text(server),
    )
    return TableRow(cells, STYLES.get(server["state"], ""))


def state_text(server: Mapping[str, Any]) -> str:
    """`loading` for what is called `starting` elsewhere: that is what people wait for."""
    if server["state"] != "starting":
        return printable(server["state"])
    progress = server["progress"]
    return "loading" if progress is None else f"loading {100 * progress:.0f} %"


def _context_text(server: Mapping[str, Any]) -> str:
    used, size = server["context_used_tokens"], tokens_cell(server["ctx_size"])
    return f"{tokens_cell(used)} of {size}" if used else size


def _memory_text(server: Mapping[str, Any]) -> str:
    """Measured; else estimated, which `~` says."""
    measured = server["measured_bytes"]
    return size_cell(measured) if measured is not None else f"~{size_cell(server['estimated_bytes'])}"


def _idle_text(server: Mapping[str, Any]) -> str:
    return duration_cell(server["idle_seconds"]) if server["state"] == "ready" and not server["requests"] else ""


def _unloads_text(server: Mapping[str, Any]) -> str:
    if server["pinned"]:
        return "pinned"
    left = server["unloads_in_seconds"]
    return "" if left is None or not _idle_text(server) else f"in {duration_cell(left)}"


def service_notes(status: Mapping[str, Any]) -> Iterator[str]:
    """Lines for below the table."""
    yield from queue_lines(status)
    yield from map(peer_line, status["peers"])
    yield from map(download_line, filter(is_running, status["downloads"]))
    yield from (f"{printable(s['model'])}: {printable(s['problem'])}" for s in status["servers"] if s["problem"])
    for server in status["servers"]:
        if engine := server.get("engine"):
            yield f"{printable(server['model'])}: engine {printable(engine)}"
        if full := server["full_ctx_size"]:
            sizes = f"{tokens_cell(server['ctx_size'])} of context instead of {tokens_cell(full)}"
            yield f"{printable(server['model'])}: has {sizes}, because other processes hold memory"
    yield from (
        f"{printable(s['model'])}: loaded {printable(s['load']['text'])}" for s in status["servers"] if _is_large(s)
    )
    yield from (
        f"{printable(s['model'])}: {drafts['accepted_percent']} % of {drafts['tokens']:,} drafted tokens accepted"
        for s in status["servers"]
        if (drafts := s.get("drafts"))
    )
    if status["status"] == "draining":
        yield "The service is draining: it takes no more requests."
    yield from (f"degraded: {printable(reason)}" for reason in status["reasons"])


def peer_line(peer: Mapping[str, Any]) -> str:
    """`peer box2: answers, 12 models, 1 request`"""
    models, seconds, problem = peer["models"], peer["retry_in_seconds"], printable(peer["problem"])
    has_problem = problem and peer["breaker"] == "closed"
    parts = (
        "has a problem" if has_problem else BREAKERS[peer["breaker"]],
        "its models are not known yet" if models is None else _counted(models, "model"),
        _counted(peer["requests"], "request") if peer["requests"] else "",
        f"tried in {duration_cell(seconds)}" if seconds else "",
    )
    return f"peer {printable(peer['name'])}: {', '.join(filter(None, parts))}{f': {problem}' if problem else ''}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _is_large(server: Mapping[str, Any]) -> bool:
    """Whether how fast it was loaded is worth a line."""
    load = server.get("load")
    return bool(load and load["size_bytes"] >= SHOWN_LOAD_BYTES)


def queue_lines(status: Mapping[str, Any]) -> Iterator[str]:
    for waiting in status["queue"]:
        count = f" x {waiting['requests']}" if waiting["requests"] > 1 else ""
        waited = duration_cell(waiting["waited_seconds"])
        yield f"waiting: {printable(waiting['model'])}{count} ({waited}): {printable(waiting['reason'])}"
