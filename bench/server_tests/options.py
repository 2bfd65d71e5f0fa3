"""The llama.cpp tests that are skipped through the proxy, with reasons, and how the proxy gets the tests' options.

The tests start llama-server with options, which become settings of one model of the proxy. Options that a configuration
may not contain are still passed to the engine, by a script that is the proxy's `engine.binary`, because the tests are
about answers and not about the option.
"""

from __future__ import annotations

ROUTER = "llama-server's router mode, which the proxy replaces"
DISABLED = "enables a feature that the proxy disables"
ADDRESSES = "the proxy listens on a single address"

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

# Options of the proxy itself, or that it always passes: not passed on.
OURS = frozenset(("--host", "--port", "--alias", "--model", "--api-key", "--kv-unified"))
OURS |= frozenset(("--slots", "--no-slots", "--metrics", "--no-ui", "--offline"))

# Options that a configuration may not contain (they affect memory or files) or that the proxy overrides: added by the
# engine's script.
BY_THE_SCRIPT = frozenset(
    ("--verbose", "--batch-size", "--slot-save-path", "--lora", "--model-draft", "--cache-ram", "--mmproj")
)
BY_THE_SCRIPT |= frozenset(("--spec-type", "--spec-draft-n-max", "--spec-draft-n-min"))
BY_THE_SCRIPT |= frozenset(("--spec-synth-len", "--spec-synth-rates", "--no-mmproj", "--media-path"))

# Options whose tests are skipped through the proxy.
LEFT_OUT = {
    "--models-dir": ROUTER,
    "--models-max": ROUTER,
    "--models-preset": ROUTER,
    "--no-models-autoload": ROUTER,
    "--cors-origins": DISABLED,
    "--tools": DISABLED,
    "--tools-runtime": DISABLED,
    "--mcp-servers-config": DISABLED,
    "--mcp-servers-json": DISABLED,
    "--ui-mcp-proxy": DISABLED,
    "--sleep-idle-seconds": "the proxy unloads idle models itself (ttl_seconds)",
}

# Tests, or files of tests, that the proxy answers differently on purpose.
TESTS: dict[str, str] = {
    "unit/test_basic.py::test_server_slots": "--no-slots: the proxy always enables /slots, which it reads itself",
    "unit/test_basic.py::test_server_model_aliases_and_tags": "the proxy lists aliases next to the name, and no tags",
    "unit/test_kv_keep_only_active.py::test_clear_and_restore": "reads llama-server's log, which goes to the proxy",
    "unit/test_metrics.py::test_metrics_disabled": "the proxy always passes --metrics",
    "unit/test_proxy.py::test_mcp_no_proxy": "the proxy has no /cors-proxy (404), llama-server forbids it (403)",
    "unit/test_security.py::test_cors_options": "the proxy does not allow other origins (CORS)",
}


def reason(test: str) -> str:
    """Why the test need not pass through the proxy; empty if it must."""
    name = test.partition("[")[0]
    return TESTS.get(test) or TESTS.get(name) or TESTS.get(name.partition("::")[0], "")
