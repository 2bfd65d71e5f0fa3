"""Layer weights: the matrices of each layer as a graph meets them, each with its bytes on a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.entities.gguf import Tensor

Weights = Mapping[str, int]  # by kind: "attn_q", "ffn_down_exps"
FEED_FORWARD = "n_ff"  # not a matrix: the length of ffn_down's rows


def layer_weights(blocks: Sequence[Sequence[Tensor]], sizes: Mapping[str, int]) -> tuple[Weights, ...]:
    """Of each layer. `sizes`: bytes by the tensor's name."""
    return tuple(_of_layer(block, sizes) for block in blocks)


def _of_layer(block: Sequence[Tensor], sizes: Mapping[str, int]) -> Weights:
    found: dict[str, int] = {}
    for tensor in block:
        kind = tensor.name.split(".", 2)[-1].removesuffix(".weight")
        found[kind] = sizes[tensor.name]
        if kind == "ffn_down" and tensor.shape:
            found[FEED_FORWARD] = tensor.shape[0]
    return found
