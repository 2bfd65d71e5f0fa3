"""Graph rules: peak bytes of one layer's graph by architecture, as formulas over the sizes of its tensors.

Fitted to llama.cpp's own accounting (b11434, no_alloc: bench/data/vram). E, FF and so on are the bytes of one tensor
for all tokens of a ubatch. ggml-alloc reuses dead tensors, so a rule counts those alive at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from app.use_cases.model_shape.graph_shape import GraphShape


@dataclass(frozen=True, slots=True)
class Work:
    """The tensors of one layer for one ubatch, in bytes."""

    shape: GraphShape
    tokens: int
    slots: int

    def width(self, values: int) -> int:
        """Bytes of a tensor with `values` f32 values per token."""
        return 4 * self.tokens * values

    @property
    def e(self) -> int:
        return self.width(self.shape.embd)

    @property
    def ff(self) -> int:
        return self.width(self.shape.ff)

    @property
    def expert_ff(self) -> int:
        return self.width(self.shape.expert_ff * self.shape.experts_used)

    @property
    def expert_e(self) -> int:
        return self.width(self.shape.embd * self.shape.experts_used)

    @property
    def shared_ff(self) -> int:
        return self.width(self.shape.shared_ff)

    @property
    def q(self) -> int:
        return self.width(self.shape.q)

    @property
    def kv(self) -> int:
        return self.width(self.shape.kv)


Rule = Callable[[Work], int]


def dense(w: Work) -> int:
    """A layer with an ordinary feed-forward network."""
    return (3 if w.shape.is_gated else 1) * w.ff + 4 * w.e


def _experts(w: Work, residuals: int = 4) -> int:
    return max(3 * w.expert_ff + 4 * w.e, 2 * w.expert_e + residuals * w.e)


def _fused(w: Work) -> int:
    """CUDA's fusion keeps the experts' outputs alive beside their inputs (ggml-cuda, graph_optimize)."""
    return 3 * w.expert_ff + (2 if w.shape.experts_used > 1 else 1) * w.expert_e + 4 * w.e


def _grouped(w: Work, residuals: int = 4) -> int:
    return 3 * w.expert_ff + 2 * w.expert_e + residuals * w.e


def _with_shared_expert(w: Work) -> int:
    return 2 * w.expert_e + max(w.expert_ff, w.shared_ff) + 5 * w.e


def _delta_net(w: Work) -> int:
    states = 1 if w.slots == 1 else 2 * w.slots
    return 2 * w.width(w.shape.conv + w.shape.inner) + states * w.shape.state_bytes + 3 * w.e


def _mamba(w: Work) -> int:
    state = w.shape.state_bytes // 4 // max(1, w.shape.inner)
    return 6 * w.width(w.shape.inner) + 2 * w.width(w.shape.dt + 2 * state) + _states(w, 3)


def _mamba2(w: Work, residuals: int = 3) -> int:
    widths = w.shape.ssm_in + 2 * w.shape.conv + w.shape.inner
    return w.width(widths) + _states(w, 2) + residuals * w.e


def _states(w: Work, of_several: int) -> int:
    """The states of all slots; several are gathered and written back, in `of_several` copies."""
    return w.slots * w.shape.state_bytes * (of_several if w.slots > 1 else 1)


def _rwkv(w: Work, tensors: int) -> int:
    few, many = w.slots * w.shape.state_bytes, 3 * w.slots * w.shape.state_bytes
    return max(tensors * w.e + few, (tensors - 1) * w.e + many)


def _per_layer_embeddings(w: Work) -> int:
    return max(3 * w.ff + 4 * w.e, 4 * w.ff) + w.width(w.shape.per_layer)


def _two_per_layer_embeddings(w: Work) -> int:
    """gemma4 of b11549: they are there twice; a model without them computes as before."""
    return _per_layer_embeddings(w) + (w.width(w.shape.per_layer) + w.e if w.shape.per_layer else 0)


def _ernie(w: Work) -> int:
    return max(_experts(w, 6), 2 * w.expert_e + w.expert_ff + 3 * w.e)


def padded_input_bytes(w: Work) -> int:
    """The embeddings with the image features of the first layers, and one more (b11549; four of each in b11434)."""
    return (2 + w.shape.deepstack) * w.e


def _deepstack(w: Work) -> int:
    return max(dense(w), 13 * w.e) + padded_input_bytes(w)


def _deepstack_experts(w: Work) -> int:
    return 2 * w.expert_e + 16 * w.e + padded_input_bytes(w)


# Experts by architecture; `experts` has the rule of all others.
EXPERTS: Mapping[str, Rule] = {
    **dict.fromkeys(("olmoe", "granitemoe", "minimax-m2", "phimoe", "dbrx", "kimi-linear", "mimo2"), _experts),
    **dict.fromkeys(("qwen3moe", "gpt-oss", "llama"), lambda w: _experts(w, 5)),
    **dict.fromkeys(("glm4moe", "granitehybrid", "llama4"), _fused),
    **dict.fromkeys(("hunyuan-moe", "deepseek", "deepseek2", "deepseek2-ocr"), lambda w: _experts(w, 6)),
    **dict.fromkeys(("qwen2moe", "nemotron_h_moe"), _with_shared_expert),
    **dict.fromkeys(("bailingmoe2", "gemma4"), _grouped),
    **dict.fromkeys(("qwen35moe", "smallthinker", "qwen3next"), lambda w: _grouped(w, 5)),
    "ernie4_5-moe": _ernie,
    "dots1": lambda w: 2 * w.expert_e + w.shared_ff + 4 * w.e,
}

# Other computations of an architecture's layers.
OTHER_GRAPHS: Mapping[str, Rule] = {
    **dict.fromkeys(("qwen35", "qwen35moe", "qwen3next"), _delta_net),
    **dict.fromkeys(("falcon-h1", "granitehybrid", "mamba2"), _mamba2),
    **dict.fromkeys(("nemotron_h", "nemotron_h_moe"), lambda w: _mamba2(w, 4)),
    "gemma3n": _per_layer_embeddings,
    "gemma4": _two_per_layer_embeddings,
    **dict.fromkeys(("deepseek32", "glm-dsa"), lambda w: 1310720 * w.tokens),
    "arwkv7": lambda w: 2 * w.ff + 16 * w.e + w.slots * w.shape.state_bytes,
    "hy_v4": lambda w: 58 * w.e,
    "jamba": lambda w: _mamba(w) + 2 * w.e,
    "mamba": _mamba,
    "qwen3vl": _deepstack,
    "qwen3vlmoe": _deepstack_experts,
    "rwkv6": lambda w: _rwkv(w, 14),
    "rwkv7": lambda w: _rwkv(w, 19),
}


def experts(w: Work) -> int:
    """A layer with a mixture of experts."""
    usual: Rule = _grouped if w.shape.shared_ff else _experts
    return EXPERTS.get(w.shape.architecture, usual)(w)


# Residuals of encoders without and with flash attention; encoders not listed use rotary positions.
ENCODER_RESIDUALS: Mapping[str, tuple[int, int]] = {"bert": (5, 2), "jina-bert-v2": (6, 4)}


def encoder(w: Work, flash: bool) -> int:
    """A layer of an encoder."""
    without, with_flash = ENCODER_RESIDUALS.get(w.shape.architecture, (8, 4))
    if w.shape.expert_ff:
        network = w.expert_ff + w.expert_e + 4 * w.e
    else:
        network = (3 if w.shape.is_gated else 1) * w.ff + with_flash * w.e
    network += w.width(w.shape.per_layer)
    return network if flash else max(network, w.width(w.shape.heads * w.tokens) + without * w.e)
