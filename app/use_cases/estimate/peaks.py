"""Peaks: bytes of the tensors on one device that are alive at the same time, without copies for other devices.

What a layer's network takes is in graph_rules.py; llama-server reserves logits for one token per slot only (b11434,
server-context.cpp, server_output_limits).
"""

from __future__ import annotations

from app.entities.launch import ModelOptions, Task
from app.use_cases.estimate.graph_rules import (
    OTHER_GRAPHS,
    Work,
    dense,
    encoder,
    experts,
    padded_input_bytes,
)
from app.use_cases.estimate.indexer_scores import indexer_scores_bytes
from app.use_cases.estimate.kv_cache import is_plain
from app.use_cases.estimate.ubatch import Ubatch
from app.use_cases.model_shape import architectures as arch
from app.use_cases.model_shape.shape import between


def peak_bytes(ubatch: Ubatch, layers: range, has_inputs: bool) -> int:
    """Peak bytes on a device with these layers, without masks; `has_inputs`: including the graph's inputs."""
    shape, w = ubatch.shape, ubatch.w
    graph = shape.graph
    if graph.architecture in arch.ATTENDS_TO_BATCH:
        return encoder(w, ubatch.flash)
    # The last layer computes its feed-forward network only for the requested tokens: one per slot.
    is_tail = layers.start >= shape.hparams.n_layer - 1 and ubatch.options.task is Task.COMPLETION
    candidates = [4 * w.e if is_tail or not graph.ff else dense(w)]
    if graph.expert_ff and not is_tail:
        candidates.append(experts(w))
    other = OTHER_GRAPHS.get(graph.architecture)
    if other and (has_inputs or not graph.deepstack):
        candidates.append(other(w))
    padded_inputs = padded_input_bytes(w) + 6 * w.e if graph.deepstack and has_inputs else 0
    if graph.architecture == "gemma4" and graph.per_layer:
        padded_inputs = w.width(graph.per_layer) + 2 * w.e
    if between(shape.indexer_width, layers.start, min(layers.stop, shape.hparams.n_layer_all)):
        candidates.append(indexer_scores_bytes(ubatch))
    if attention := attention_bytes(ubatch, layers):
        candidates.append(attention + padded_inputs)
    if shape.hparams.n_layer_all in layers:
        candidates.append(logits_bytes(ubatch))
    return max(candidates)


def attention_bytes(ubatch: Ubatch, layers: range) -> int:
    shape, options, w, cells, flash = ubatch.shape, ubatch.options, ubatch.w, ubatch.cells, ubatch.flash
    graph, (start, stop) = shape.graph, (layers.start, min(layers.stop, shape.hparams.n_layer_all))
    has_base, has_window = between(shape.base.layers, start, stop), between(shape.window.layers, start, stop)
    widest = max(cells.base if has_base else 0, cells.window if has_window else 0)
    if not widest:
        return 0
    if graph.is_mla:
        latent = 2 * w.q + w.width(graph.heads * graph.mla_head) + 4 * w.e
        if flash:
            return latent
    if not flash:
        scores = w.width(graph.heads * widest) + 5 * max(w.q, w.e)
        # V is stored for flash attention if that turned out unsupported only afterwards: one layer is transposed.
        transposed = 2 * graph.v * widest * cells.streams + w.kv if options.flash_attn != "off" else 0
        return scores + transposed
    if not options.devices or is_plain(options) or not graph.has_flash_attention:
        return 0
    # CUDA's flash attention reads f16: one layer's whole K, V or both are converted (fattn.cu, ..._get_alloc_size).
    base = cells.base * _converted(shape.widest_base, options) if has_base else 0
    window = cells.window * _converted(shape.widest_window, options) if has_window else 0
    is_tail = start >= shape.hparams.n_layer - 1 and options.task is Task.COMPLETION
    residuals = dense(w) + w.e if graph.is_parallel and not is_tail else 5 * max(w.q, w.e)
    return 2 * cells.streams * max(base, window) + residuals


def logits_bytes(ubatch: Ubatch) -> int:
    w = ubatch.w
    outputs = output_tokens(ubatch.options, w)
    residuals = 2 if ubatch.options.task is Task.COMPLETION and outputs == w.slots else 4
    return 4 * ubatch.shape.graph.vocab * min(w.tokens, outputs) + residuals * w.e


def output_tokens(options: ModelOptions, w: Work) -> int:
    """Tokens whose logits are computed: the next of each slot and its drafts (server_output_limits)."""
    if options.task is not Task.COMPLETION:
        return w.tokens
    return w.slots * (1 + {"none": 0, "ngram-mod": 64}.get(options.speculation, options.draft_max))


def _converted(widths: tuple[int, int], options: ModelOptions) -> int:
    """Of the values in K and V, those not in f16."""
    types = options.cache_type_k, options.cache_type_v
    return sum(width for width, cache_type in zip(widths, types, strict=True) if cache_type != "f16")


def mask_bytes(ubatch: Ubatch, layers: range) -> int:
    """Of each kind of cache the layers read: the mask, and where V goes in it."""
    shape, w = ubatch.shape, ubatch.w
    bytes_each = 2 if ubatch.flash else 4
    if shape.graph.architecture in arch.ATTENDS_TO_BATCH:
        kinds = 1 + (0 < sum(shape.hparams.is_windowed) < shape.hparams.n_layer)
        return kinds * w.tokens * w.tokens * bytes_each
    start, stop = layers.start, min(layers.stop, shape.hparams.n_layer_all)
    has_base, has_window = between(shape.reads_base, start, stop) > 0, between(shape.reads_window, start, stop) > 0
    kept = (
        ubatch.cells.base * (has_base + (between(shape.indexer_width, start, stop) > 0))
        + ubatch.cells.window * has_window
    )
    return kept * w.tokens * bytes_each + (has_base + has_window) * v_indexes_bytes(ubatch)


def v_indexes_bytes(ubatch: Ubatch) -> int:
    """Without flash attention V is kept transposed, and each of its values has an index
    (llama-kv-cache.cpp, build_input_v_idxs)."""
    w = ubatch.w
    return 8 * w.tokens * ubatch.shape.v_width_max if ubatch.options.flash_attn == "off" else 0


def output_alone_bytes(ubatch: Ubatch, copies: int = 0) -> int:
    """A device after the first with the output matrix alone: logits, and the rows of the last layer they are computed
    from. The last layer picks the rows (build_inp_out_ids in src/llama-graph.cpp); they are copied once per pipeline
    stage, and normalized."""
    shape, w = ubatch.shape, ubatch.w
    if shape.graph.architecture in arch.ATTENDS_TO_BATCH and ubatch.options.task is not Task.COMPLETION:
        return (copies + 2) * w.e  # only a norm, of all tokens
    rows = min(w.tokens, output_tokens(ubatch.options, w))
    return 4 * rows * (shape.graph.vocab + (copies + 1) * shape.graph.embd)
