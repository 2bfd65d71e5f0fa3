"""Indexer scores: the indexer of sparse attention scores every cell for every token.

In long contexts these scores are larger than anything else in a layer.

Fitted to llama.cpp's own accounting (b11549, no_alloc) at 32k and 128k tokens, one model of each architecture.
"""

from __future__ import annotations

from collections.abc import Mapping

from app.use_cases.estimate.ubatch import Ubatch

# Bytes for each token and cell, and thousandths of an embedding that are alive with them.
_SCORES: Mapping[str, tuple[int, int]] = {
    "deepseek32": (12, 9000),
    "glm-dsa": (12, 2400),
    "hy_v4": (8, 12500),
    "dots3note": (4, 31500),
    "qwen4exp": (4, 14600),
}


def indexer_scores_bytes(ubatch: Ubatch) -> int:
    """Peak bytes while a layer selects the cells it reads, without masks; 0 if it has no measured indexer."""
    w = ubatch.w
    if w.shape.architecture == "minimax-m3":  # the scores of all of the indexer's heads twice, and a mask
        heads = ubatch.shape.hparams.integer("attention.indexer.head_count")
        return (8 * heads + 2) * ubatch.cells.base * w.tokens + 97 * w.e // 10
    each, residuals = _SCORES.get(w.shape.architecture, (0, 0))
    return each * ubatch.cells.base * w.tokens + residuals * w.e // 1000 if each else 0
