"""What of llama.cpp's tests is not asked through the proxy, and why: the one place that says so.

The tests start llama-server with options. Through the proxy these become settings of one model. What a configuration
may not hand on goes to the engine all the same where a test is about answers and not about the option: by the script
that is its `engine.binary`.
"""

from __future__ import annotations

ROUTER = "llama-server's router mode: the proxy is there in its place"
DOOR = "it opens what the proxy keeps shut"
ADDRESSES = "the proxy listens on one address"

# Options that become settings of the model.
SETTINGS = {
    "--ctx-size": "ctx_size",
    "--parallel": "parallel",
    "--ubatch-size": "ubatch_size",
    "--n-gpu-layers": "n_gpu_layers",
    "-ctk": "cache_type_k",
    "-ctv": "cache_type_v",
    "-fa": "flash_attn",
}
NUMBERS = frozenset(("--ctx-size", "--parallel", "--ubatch-size", "--n-gpu-layers"))

# Options that mean the proxy itself, or that it always gives: they go no further.
OURS = frozenset(("--host", "--port", "--alias", "--model", "--api-key", "--kv-unified"))
OURS |= frozenset(("--slots", "--no-slots", "--metrics", "--no-ui", "--offline"))

# Options that a configuration may not have, because of memory or files, or that ours override; the engine's script
# gives them.
BY_THE_SCRIPT = frozenset(
    ("--verbose", "--batch-size", "--slot-save-path", "--lora", "--model-draft", "--cache-ram", "--mmproj")
)
BY_THE_SCRIPT |= frozenset(("--spec-type", "--spec-draft-n-max", "--spec-draft-n-min"))
BY_THE_SCRIPT |= frozenset(("--spec-synth-len", "--spec-synth-rates", "--no-mmproj", "--media-path"))

# Options whose tests have no meaning through the proxy.
LEFT_OUT = {
    "--models-dir": ROUTER,
    "--models-max": ROUTER,
    "--models-preset": ROUTER,
    "--no-models-autoload": ROUTER,
    "--cors-origins": DOOR,
    "--tools": DOOR,
    "--tools-runtime": DOOR,
    "--mcp-servers-config": DOOR,
    "--mcp-servers-json": DOOR,
    "--ui-mcp-proxy": DOOR,
    "--sleep-idle-seconds": "the proxy unloads idle models itself (ttl_seconds)",
}

# Tests, or their files, that are answered otherwise on purpose.
TESTS: dict[str, str] = {
    "unit/test_basic.py::test_server_slots": "--no-slots: the proxy always has /slots, it looks at them itself",
    "unit/test_basic.py::test_server_model_aliases_and_tags": "the proxy lists aliases beside the name, and no tags",
    "unit/test_kv_keep_only_active.py::test_clear_and_restore": "it reads llama-server's log, which the proxy keeps",
    "unit/test_metrics.py::test_metrics_disabled": "the proxy always gives --metrics",
    "unit/test_proxy.py::test_mcp_no_proxy": "/cors-proxy is no path at all (404) where llama-server forbids it (403)",
    "unit/test_security.py::test_cors_options": "the proxy is for no web page of another origin",
}


def reason(test: str) -> str:
    """Why it need not pass through the proxy; empty if it has to."""
    name = test.partition("[")[0]
    return TESTS.get(test) or TESTS.get(name) or TESTS.get(name.partition("::")[0], "")
