"""The architectures of the engine without recorded rows, and why (build 11549)."""

from __future__ import annotations

from collections.abc import Mapping

_DRAFTS = "a draft head: its rows are those of its model (set head)"

UNMEASURED: Mapping[str, str] = {
    "clip": "a projector, for llama-quantize only (src/models/clip.cpp aborts)",
    "clef": "scores decisions: its graph is made for requests that llama-server does not have",
    "dflash": _DRAFTS,
    "eagle3": _DRAFTS,
    "gemma4-assistant": _DRAFTS,
    "gptj": "a name without a model: 'unsupported model architecture'",
}
