"""Layers: the matrices and widths of each layer as a graph meets them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.entities.gguf import Tensor
from app.use_cases.model_shape import architectures as arch
from app.use_cases.model_shape.hparams import Hparams

EXPERTS = re.compile(r"ffn_(up|down|gate|gate_up)_(ch|)exps")  # common/arg.cpp, --cpu-moe


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
    has_rope: bool
    experts: frozenset[str]  # those of the weights that --cpu-moe keeps in RAM
    kind: int  # equal for layers that differ at most in the types of their weights
    kind_with_types: int


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
    weights = {kind: sizes[tensor.name] for kind, tensor in names.items()}
    return Layer(
        weights,
        *widths,
        ff=ff,
        is_windowed=hp.is_windowed[il],
        has_rope=_has_rope(hp, il),
        experts=frozenset(filter(EXPERTS.match, names)),
        kind=kinds.setdefault((*widths, ff, hp.is_windowed[il], _has_rope(hp, il), frozenset(names)), len(kinds)),
        kind_with_types=kinds.setdefault(
            (*widths, ff, hp.is_windowed[il], _has_rope(hp, il), *weights.items()), len(kinds)
        ),
    )


def _has_rope(hp: Hparams, il: int) -> bool:
    if hp.architecture in arch.WITHOUT_ROPE:
        return False
    if hp.architecture in arch.ROPE_IN_WINDOWS and any(hp.is_windowed):
        return hp.is_windowed[il]
    every = arch.WITHOUT_ROPE_EVERY.get(hp.architecture, 0)
    return not every or (il + 1) % every > 0
