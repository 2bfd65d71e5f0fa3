"""Sparse attention's indexer: the layers that keep index keys beside their KV cache, and how wide these are.

Checked against llama.cpp b11549: llama_model::create_memory in src/llama-model.cpp (filter_lid, filter_idx), and
load_arch_hparams of src/models/glm-dsa.cpp, hy-v4.cpp, dots3note.cpp, glm5-next.cpp and minimax-m3.cpp.
"""

from __future__ import annotations

from app.use_cases.model_shape.hparams import Hparams

WITH_INDEXER = frozenset({"deepseek32", "glm-dsa", "hy_v4", "dots3note", "glm5-next", "minimax-m3"})
_POOLED_ROW = 3  # keys kept of a pool of several (indexer_kpool_row)


def indexer_widths(hp: Hparams) -> list[tuple[int, int]]:
    """Values per token of index keys, and of values beside them, by layer."""
    key = hp.integer("attention.indexer.key_length") if hp.architecture in WITH_INDEXER else 0
    if not key or not hp.integer("attention.indexer.top_k"):
        return [(0, 0)] * hp.n_layer_all
    if hp.integer("attention.indexer.kpool"):
        key *= _POOLED_ROW
    value = 0 if hp.is_mla else hp.v_head()  # the indexer of minimax-m3 has a cache of the usual kind, of one head
    own = [has_kv and not windowed for has_kv, windowed in zip(hp.has_kv, hp.is_windowed, strict=True)]
    return [(key, value) if own[il] and _has_indexer(hp, il) else (0, 0) for il in hp.layers]


def _has_indexer(hp: Hparams, il: int) -> bool:
    """Whether the layer has one of its own; the others take over what the one before them selected."""
    if hp.architecture == "minimax-m3":
        return il >= hp.integer("leading_dense_block_count")
    listed = hp.value("attention.indexer.types")
    if isinstance(listed, tuple):
        return il < len(listed) and bool(listed[il])
    if hp.architecture == "glm-dsa" and hp.integer("context_length") >= 1048576:  # GLM 5.2 without the list
        return il < 3 or il % 4 == 2
    return True
