"""Layers: the matrices and widths of each layer as a graph meets them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.entities.gguf import Tensor
from app.use_cases.model_shape.hparams import Hparams


@dataclass(frozen=True, slots=True)
class Layer:
    """Widths in values per token."""

    weights: Mapping[str, int]  # bytes on a GPU, by kind: "attn_q", "ffn_down_exps"
    q: int
    k: int
    v: int
    attended: int  # what attention returns
    ff: int
    is_windowed: bool
    has_experts: bool
    kind: int  # equal for layers that differ at most in the types of their weights


def layers(hp: Hparams, blocks: Sequence[Sequence[Tensor]], sizes: Mapping[str, int]) -> tuple[Layer, ...]:
    """`sizes`: bytes by the tensor's name."""
    heads = {windowed: (hp.k_head(windowed), hp.v_head(windowed)) for windowed in (False, True)}
    kinds: dict[object, int] = {}
    return tuple(_layer(hp, il, block, sizes, kinds, *heads[hp.is_windowed[il]]) for il, block in enumerate(blocks))


def _layer(
    hp: Hparams, il: int, block: Sequence[Tensor], sizes: Mapping[str, int], kinds: dict[object, int], k: int, v: int
) -> Layer:
    names = {tensor.name.split(".", 2)[-1].removesuffix(".weight"): tensor for tensor in block}
    down = names.get("ffn_down")
    widths = hp.n_head[il] * k, hp.n_head_kv[il] * k, hp.n_head_kv[il] * v, hp.n_head[il] * v
    ff = down.shape[0] if down and down.shape else 0
    return Layer(
        {kind: sizes[tensor.name] for kind, tensor in names.items()},
        *widths,
        ff=ff,
        is_windowed=hp.is_windowed[il],
        has_experts="ffn_down_exps" in names,
        kind=kinds.setdefault((*widths, ff, hp.is_windowed[il], frozenset(names)), len(kinds)),
    )
