"""GET /status, GET /plan and GET /status/history with a case of everything that the page shows; figures invented."""

from __future__ import annotations

from typing import Any

from tests.terminal.status import GIB, a_download, a_gpu, a_model, a_peer, a_segment, a_server, a_status, a_waiting

CODER = "org/qwen3-coder-30b"


def a_quant(quant: str, **values: Any) -> dict[str, Any]:
    """Of the answer to POST /models/pull with `plan`."""
    return {
        "name": f"org/a:{quant}",
        "quant": quant,
        "size_bytes": 8 * GIB,
        "needed_bytes": 11 * GIB,
        "ctx_size": 32768,
        "outcome": "place",
        "text": "fits GPU 1",
        "recommended": False,
        "downloaded": False,
        "problem": "",
    } | values


def a_request(**values: Any) -> dict[str, Any]:
    return {
        "at": 1764640790.25,
        "model": "qwen3-14b",
        "path": "/v1/chat/completions",
        "status": 200,
        "wait_seconds": 0.0,
        "seconds": 12.4,
        "first_byte_seconds": 0.184,
        "prompt_tokens": 9120,
        "completion_tokens": 212,
        "tokens_per_second": 57.8,
        "key": "ci",
    } | values


def busy_status() -> dict[str, Any]:
    busy = a_server(
        id="1",
        requests=5,
        slots_busy=2,
        context_used_tokens=9318,
        prompt_tokens_per_second=1234.0,
        tokens_per_second=58.3,
        drafts={"tokens": 23300, "accepted_tokens": 15100, "accepted_percent": 65},
        measured_bytes=int(11.2 * GIB),
    )
    replica = a_server(id="2", device="vulkan:1", gpus=[1], pid=None, full_ctx_size=65536, pinned=True)
    loading = a_server(CODER, id="3", state="starting", gpus=[0, 1], device="cuda:0,1", progress=0.643, slots=16)
    lost = a_server("lost", id="4", state="draining", gpus=[], device="cpu", slots=12, problem="has not responded")
    lost |= {"load": {"size_bytes": 9 * GIB, "bytes_per_second": 3 * GIB}, "prompt_cache_bytes": GIB}
    gpu = a_gpu(
        0,
        a_segment("model", 11.2, "qwen3-14b"),
        a_segment("claimed", 5.3, CODER),
        a_segment("other", 4.6),
        a_segment("reserve", 0.5),
        a_segment("free", 2.4),
        other_processes=[{"pid": 4121, "name": "comfyui", "bytes": 4 * GIB}, {"pid": 9, "name": None, "bytes": None}],
        drives_display=True,
    )
    many = [{"pid": pid, "name": f"p{pid}", "bytes": 300 << 20} for pid in range(8)]
    unread = {"utilization_percent": None, "temperature_celsius": None, "power_watts": None}
    return a_status(
        *(busy, replica, loading, lost),
        **QUIET
        | {
            "degraded": True,
            "reasons": ["GPU 2 (NVIDIA L4): the driver has lost it"],
            "uptime_seconds": 273_600.0,
            "waiting": 3,
            "gpus": [gpu, a_gpu(1, a_segment("other", 9), unified=True, other_processes=many, problem="hot", **unread)],
            "missing_gpus": [{"index": 2, "name": "NVIDIA L4", "uuid": "GPU-2", "problem": "the driver has lost it"}],
            "queue": [a_waiting(), a_waiting(CODER, requests=1, waited_seconds=6.2, cause="load", reason="loads")],
            "decisions": [
                {"at": 1764640790.5, "model": "phi-4", "outcome": "refuse", "text": "phi-4 refused"},
                {"at": 1764640700.5, "model": CODER, "outcome": "place", "text": f"{CODER} on GPUs 0+1"},
            ],
            "requests": [
                a_request(),
                a_request(status=499, model=None, key=None, tokens_per_second=None, completion_tokens=None),
                a_request(
                    status=503, wait_seconds=None, first_byte_seconds=None, seconds=300.1, prompt_tokens=1_234_567
                ),
                a_request(status=404, tokens_per_second=4.21),
            ],
        },
    )


QUIET: dict[str, Any] = {
    "driver_version": "580.10",
    "cuda_version": "13.0",
    "gpus_age_seconds": 0.4,
    # No share of it ends in a 5 where it is cut: Python and JavaScript round that differently.
    "ram": {"total_bytes": 64 * GIB, "available_bytes": 47 * GIB, "booked_bytes": 3 * GIB},
    "last_hour": {
        "requests": 1284,
        "prompt_tokens": 5_300_000,
        "completion_tokens": 412_345,
        "wait_median_seconds": 0.0,
        "wait_p95_seconds": 9.2,
        "loads": 14,
        "evictions": 6,
    },
}
DOWNLOADS = [
    a_download(
        "org/new-GGUF", state="checking", total_bytes=None, done_bytes=0, bytes_per_second=None, seconds_left=None
    ),
    a_download(problem="the disk was slow"),
    a_download("org/sum-GGUF:Q8_0", state="verifying", done_bytes=int(8.4 * GIB)),
    a_download("org/unknown:x.gguf", total_bytes=None, seconds_left=None, bytes_per_second=None, done_bytes=3 << 20),
    a_download("org/done:Q4_K_M", state="complete", done_bytes=int(8.4 * GIB)),
    a_download("org/gated-GGUF", state="failed", total_bytes=None, done_bytes=0, problem="accept its licence"),
    a_download("org/left-GGUF:Q6_K", state="canceled"),
]
PEERS = [
    a_peer(requests=1, models=1),
    a_peer("new", models=None, problem="GET /v1/models is answered with status 500"),
    a_peer("down", breaker="open", problem="there is no connection: Connection refused", retry_in_seconds=12.3),
    a_peer("back", breaker="half_open", problem="it closed the connection in mid-answer", requests=2),
]
NO_HOUR = {"last_hour": QUIET["last_hour"] | {"wait_median_seconds": None, "wait_p95_seconds": None, "requests": 7}}
STATUSES: list[dict[str, Any]] = [
    busy_status() | {"peers": PEERS},
    a_status(**QUIET | NO_HOUR | {"status": "draining", "engine": None, "ram": None, "gpus_problem": "no driver"}),
    a_status(a_server(), **QUIET | {"gpus": [a_gpu()], "gpus_state": "asleep", "gpus_age_seconds": 812.0}),
    a_status(a_server(state="stopping"), **QUIET | {"downloads": DOWNLOADS, "gpus": [a_gpu()], "gpus_state": "hung"}),
]
OF_A_PEER = {"quant": "", "size_bytes": None, "capabilities": [], "needed_bytes": None}
PLAN: dict[str, Any] = {
    "models": [
        a_model("deepseek-v3", outcome="refuse", text="never: needs 391 GiB, the GPUs have 47", size_bytes=377 * GIB),
        a_model("broken", state="failed", problem="out of memory\nline 1\nline 2", outcome=None, needed_bytes=None),
        a_model("qwen3-14b", aliases=["gpt-4o-mini", "gpt-4o"], state="ready", outcome="loaded", text="ready on GPU 0"),
        a_model(CODER, state="ready", quant="", capabilities=[], ctx_size=None),
        a_model("phi-4", pinned=True, outcome="wait", text="waits for qwen3-14b", size_bytes=0, ctx_size=9318),
        a_model(
            "gemma",
            source="hugging_face",
            capabilities=["chat", "completion", "vision"],
            outcome="evict",
            text="would evict phi-4",
        ),
        a_model("box2/llama", state="peer", source="peer", outcome=None, text="at peer box2", **OF_A_PEER),
        a_model("down/x", state="peer", outcome=None, text="at peer down", problem="peer down: refused", **OF_A_PEER),
    ]
}
QUANTS = [
    a_quant("Q4_K_M", recommended=True),
    a_quant("Q6_K", outcome="evict", text="would evict phi-4", downloaded=True),
    a_quant("F16", outcome="refuse", text="never: needs 40 GiB"),
    a_quant("", name="org/a:odd.gguf", outcome=None, text="", needed_bytes=None, problem="its header cannot be read"),
]
HISTORY: dict[str, Any] = {
    "interval_seconds": 5,
    "gpus": {
        "GPU-0": {
            "utilization_percent": [None] * 100 + [0, 12.5, 63, None, 50] + [100] * 15,
            "used_bytes": [GIB * n // 10 for n in range(120)],
            "power_watts": [],
        },
        "GPU-1": {"utilization_percent": [7], "used_bytes": [None], "power_watts": [22.5, None, 287.1]},
    },
}
