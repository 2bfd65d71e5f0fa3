"""Replayed network: the tensors of a layer's feed-forward network, allocated in the order of its graph.

llama.cpp b11549, llama-graph.cpp: build_ffn, build_moe_ffn.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.use_cases.estimate.graph_replay import GraphReplay
from app.use_cases.estimate.tensor_allocator import EMPTY, Allocation

_FUSED_WITH_SHARED = frozenset({"ffn_gate_exps", "ffn_up_exps", "ffn_gate_shexp", "ffn_up_shexp"})


@dataclass(slots=True)
class Inputs:
    """Of a layer's experts; None: on another device, and not yet copied over."""

    normed: Allocation | None = None
    chosen: Allocation | None = None  # the numbers of the experts for each token
    shares: Allocation | None = None  # how much the result of each counts


def network(replay: GraphReplay, normed: Allocation, inputs: Inputs) -> Allocation:
    """The result of a layer's network on its device. `normed` is its input, of the experts one of several."""
    if not replay.layer.experts:
        return dense_network(replay, normed)
    has_shared = replay.w.shape.shared_ff > 0
    inputs.normed = EMPTY if has_shared else normed
    active = _active_experts(replay, inputs)
    if not has_shared:
        return _sum_of_experts(replay, active, inputs)
    if not _computes_shared_early(replay):
        result = _sum_of_experts(replay, active, inputs)
        replay.free(_shared_expert(replay, normed))
        return result
    shared = _active(replay, EMPTY, replay.w.shared_ff, "_shexp")
    replay.free(normed)  # kept until here for both
    result = _sum_of_experts(replay, active, inputs)
    replay.free(replay.mul_mat("ffn_down_shexp", replay.w.e, shared))
    return result


def dense_network(replay: GraphReplay, normed: Allocation) -> Allocation:
    size = replay.w.width(replay.layer.ff)
    return replay.mul_mat("ffn_down", replay.w.e, _active(replay, normed, size, ""))


def network_of_another(replay: GraphReplay) -> None:
    """On the first device: the experts of a layer of another device, because they are in RAM.

    The residual is copied over, too, if its sum is computed here, and so the next norm.
    """
    w, inputs = replay.w, Inputs()
    result = _sum_of_experts(replay, _active_experts(replay, inputs), inputs)
    if not w.shape.shared_ff:
        residual = replay.allocate(w.e)
        replay.free(replay.allocate(w.e), residual)
    replay.free(result)


def network_on_first(replay: GraphReplay, normed: Allocation, inputs: Inputs) -> Allocation:
    """On another device than the first, which computes the experts: what is left. EMPTY: the sum is there, too."""
    replay.free(inputs.chosen or EMPTY, inputs.shares or EMPTY)
    if not replay.w.shape.shared_ff:
        replay.free(normed)
        return EMPTY
    result = replay.allocate(replay.w.e)  # copied back
    replay.begin_split(replay.after_copies)
    replay.free(_shared_expert(replay, normed))
    return result


def _shared_expert(replay: GraphReplay, normed: Allocation) -> Allocation:
    active = _active(replay, normed, replay.w.shared_ff, "_shexp")
    return replay.mul_mat("ffn_down_shexp", replay.w.e, active)


def _active(replay: GraphReplay, normed: Allocation, size: int, suffix: str) -> Allocation:
    """What a network's last matrix is multiplied with."""
    gate, up = f"ffn_gate{suffix}", f"ffn_up{suffix}"
    if gate in replay.layer.weights:
        gated = replay.mul_mat(gate, size)
        return replay.compute(size, gated, replay.mul_mat(up, size, normed))
    if replay.shape.graph.is_gated:
        return replay.compute(size, replay.mul_mat(up, 2 * size, normed))
    return replay.mul_mat(up, size, normed)


def _computes_shared_early(replay: GraphReplay) -> bool:
    """CUDA's fusion moves the shared expert's first products before the others' last one, if all are on the GPU, and of
    one size and type (ggml-cuda.cu: ggml_cuda_match_shared_expert, ggml_backend_cuda_graph_optimize)."""
    weights = replay.layer.weights
    if replay.in_ram or not weights.keys() >= _FUSED_WITH_SHARED:
        return False
    return weights["ffn_up_exps"] // max(1, replay.shape.graph.experts) == weights["ffn_up_shexp"]


def router(replay: GraphReplay) -> Inputs:
    """Its results; nothing in a layer without experts."""
    if not replay.layer.experts:
        return Inputs()
    w, graph = replay.w, replay.shape.graph
    logits, *probabilities, chosen = (
        replay.allocate(w.width(graph.experts)) for _ in range(4 if "exp_probs_b.bias" in replay.layer.weights else 3)
    )
    used, one = w.width(graph.experts_used), w.width(1)
    weights, total, clamped, shares = (replay.allocate(size) for size in (used, one, one, used))
    replay.free(logits, *probabilities, weights, total, clamped)
    return Inputs(None, chosen, shares)


def _active_experts(replay: GraphReplay, inputs: Inputs) -> Allocation:
    w, weights = replay.w, replay.layer.weights
    is_fused = "ffn_gate_up_exps" in weights
    first, size = ("ffn_gate_up_exps", 2 * w.expert_ff) if is_fused else ("ffn_gate_exps", w.expert_ff)
    weight = replay.weight(first)
    if inputs.normed is None:
        inputs.normed, inputs.chosen = replay.allocate(w.e), replay.allocate(w.width(w.shape.experts))
    gated = replay.compute(size, weight)
    _add_bias(replay, first)
    if is_fused:
        replay.free(inputs.normed)
        return replay.compute(w.expert_ff, gated)
    up = replay.mul_mat("ffn_up_exps", size, inputs.normed)
    _add_bias(replay, "ffn_up_exps")
    return replay.compute(size, gated, up)


def _sum_of_experts(replay: GraphReplay, active: Allocation, inputs: Inputs) -> Allocation:
    w = replay.w
    weight = replay.weight("ffn_down_exps")
    if inputs.shares is None:
        inputs.shares = replay.allocate(w.width(w.shape.experts_used))
    products = replay.compute(w.expert_e, weight, active, inputs.chosen or EMPTY)
    _add_bias(replay, "ffn_down_exps")
    return replay.compute(w.e, replay.allocate(w.expert_e), products, inputs.shares)


def _add_bias(replay: GraphReplay, kind: str) -> None:
    """In place: only a bias that is copied in takes memory."""
    replay.free(replay.weight(f"{kind}.bias"))
