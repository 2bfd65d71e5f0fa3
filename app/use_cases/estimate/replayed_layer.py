"""Replayed layer: a layer's allocations in the order of its graph, from the residual before it to the one after it."""

from __future__ import annotations

from app.use_cases.estimate.graph_replay import GraphReplay
from app.use_cases.estimate.replayed_attention import attention, output
from app.use_cases.estimate.replayed_network import (
    Inputs,
    dense_network,
    network,
    network_of_another,
    network_on_first,
    router,
)
from app.use_cases.estimate.tensor_allocator import EMPTY, Allocation

_INTO_RESIDUAL = frozenset({"phi3"})  # ggml_add(residual, cur): the sum takes the place of its first operand
_ROUTER_FIRST = frozenset({"smallthinker"})  # it reads what attention reads


def whole_layer(replay: GraphReplay, is_last: bool) -> None:
    """The last layer's feed-forward network is left out: it computes few tokens."""
    normed = _normed(replay)
    attended = attention(replay, normed)
    if is_last:
        return
    if replay.is_parallel:
        _parallel_network(replay, normed, attended)
    else:
        _network(replay, attended)


def layer_without_experts(replay: GraphReplay, is_last: bool) -> None:
    """On another device than the first, which computes with the experts, because they are in RAM."""
    attended = attention(replay, _normed(replay))
    if is_last:
        return
    residual, normed, inputs = _routed(replay, attended)
    result = network_on_first(replay, normed, inputs)
    replay.free(residual)
    if result != EMPTY:
        replay.residual = result
    elif replay.after_copies:
        replay.begin_after_another(replay.after_copies)


def experts_of_another(replay: GraphReplay, is_last: bool) -> None:
    """On the first device: what the layer above is without."""
    if not is_last:
        network_of_another(replay)


def _normed(replay: GraphReplay) -> Allocation:
    normed, replay.norm = replay.norm, None
    if normed is not None:
        return normed
    return replay.allocate(replay.w.e if "attn_norm" in replay.layer.weights or replay.is_parallel else 0)


def _parallel_network(replay: GraphReplay, normed: Allocation, attended: Allocation) -> None:
    """The network reads what attention read; attention's output matrix comes after it."""
    result = dense_network(replay, normed)
    replay.free(replay.residual or EMPTY)
    replay.free(output(replay, attended))
    replay.residual = result


def _routed(replay: GraphReplay, attended: Allocation) -> tuple[Allocation, Allocation, Inputs]:
    """The new residual, its norm, and what the router returns."""
    early = router(replay) if replay.architecture in _ROUTER_FIRST else None
    residual = output(replay, attended)
    replay.free(replay.residual or EMPTY)
    return residual, replay.allocate(replay.w.e), early or router(replay)


def _network(replay: GraphReplay, attended: Allocation) -> None:
    residual, normed, inputs = _routed(replay, attended)
    result = network(replay, normed, inputs)
    replay.free(replay.weight("post_ffw_norm"))
    if replay.architecture in _INTO_RESIDUAL:
        result, residual = residual, result
    replay.free(residual)
    replay.residual = result
