"""GET /status and GET /plan as a service with two GPUs gives them; figures invented."""

from __future__ import annotations

from typing import Any

GIB = 1 << 30


def a_server(model: str = "qwen3-14b", **values: Any) -> dict[str, Any]:
    return {
        "id": "1",
        "model": model,
        "state": "ready",
        "device": "cuda:0",
        "gpus": [0],
        "pid": 4242,
        "progress": None,
        "requests": 0,
        "slots": 4,
        "slots_busy": 0,
        "ctx_size": 32768,
        "full_ctx_size": None,
        "context_used_tokens": None,
        "prompt_tokens_per_second": None,
        "tokens_per_second": None,
        "idle_seconds": 240.0,
        "unloads_in_seconds": 660.0,
        "estimated_bytes": 11 * GIB,
        "measured_bytes": None,
        "pinned": False,
        "started_at": 1764633600.0,
        "load_seconds": 2.7,
        "problem": "",
    } | values


def a_segment(kind: str, gib: float, model: str | None = None) -> dict[str, Any]:
    return {"kind": kind, "model": model, "server": "1" if model else None, "bytes": int(gib * GIB)}


def a_gpu(index: int = 0, *segments: dict[str, Any], **values: Any) -> dict[str, Any]:
    parts = segments or (a_segment("model", 11, "qwen3-14b"), a_segment("free", 13))
    total = sum(part["bytes"] for part in parts)
    used = sum(part["bytes"] for part in parts if part["kind"] in ("model", "claimed", "other"))
    return {
        "index": index,
        "uuid": f"GPU-{index}",
        "name": "NVIDIA GeForce RTX 4090",
        "problem": "",
        "total_bytes": total,
        "used_bytes": used,
        "free_bytes": total - used,
        "utilization_percent": 63,
        "temperature_celsius": 61,
        "power_watts": 287.0,
        "drives_display": False,
        "unified": False,
        "segments": list(parts),
        "other_processes": [],
    } | values


def a_status(*servers: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {
        "version": "0.1.0",
        "status": "ok",
        "degraded": False,
        "reasons": [],
        "at": 1764640800.0,
        "uptime_seconds": 7200.0,
        "admin": True,
        "engine": {"kind": "llama-server", "version": "b11434"},
        "waiting": 0,
        "gpus_state": "ok",
        "gpus_problem": "",
        "gpus": [],
        "missing_gpus": [],
        "ram": {"total_bytes": 64 * GIB, "available_bytes": 48 * GIB, "booked_bytes": 2 * GIB},
        "servers": list(servers),
        "queue": [],
        "decisions": [],
        "requests": [],
        "downloads": [],
        "may_pull": True,
        "peers": [],
    } | values


def a_peer(name: str = "box2", **values: Any) -> dict[str, Any]:
    about = {"models": 2, "requests": 0, "failures": 0}
    return {"name": name, "breaker": "closed", "problem": "", "retry_in_seconds": 0.0, **about} | values


def a_waiting(model: str = "llama-3.3-70b", **values: Any) -> dict[str, Any]:
    reason = "waits for qwen3-14b to finish"
    return {"model": model, "requests": 2, "waited_seconds": 41.0, "cause": "memory", "reason": reason} | values


def a_download(model: str = "org/tiny-GGUF:Q4_K_M", **values: Any) -> dict[str, Any]:
    return {
        "model": model,
        "state": "downloading",
        "total_bytes": int(8.4 * GIB),
        "done_bytes": int(4.8 * GIB),
        "bytes_per_second": 92 << 20,
        "seconds_left": 40.1,
        "file": "tiny-Q4_K_M.gguf",
        "problem": "",
        "code": "",
        "started_at": 1764640790.125,
    } | values


def a_model(name: str = "qwen3-14b", **values: Any) -> dict[str, Any]:
    """An entry of GET /plan."""
    return {
        "id": name,
        "aliases": [],
        "source": "file",
        "quant": "Q4_K_M",
        "size_bytes": int(8.4 * GIB),
        "ctx_size": 32768,
        "capabilities": ["chat", "completion", "tools"],
        "state": "unloaded",
        "problem": "",
        "pinned": False,
        "outcome": "place",
        "text": "fits GPU 1",
        "needed_bytes": 11 * GIB,
        "evict": [],
        "device": "cuda:1",
    } | values
