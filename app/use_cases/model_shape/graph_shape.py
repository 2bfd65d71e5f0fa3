"""GraphShape: the tensor widths of one layer, which determine the size of the compute graph."""

from __future__ import annotations

from dataclasses import dataclass

from app.use_cases.model_shape.hparams import Hparams

# Head sizes that CUDA's flash attention supports (ggml-cuda/fattn.cu, ggml_cuda_get_best_fattn_kernel, b11434): equal
# K and V; or K, V and how many query heads must share a KV head.
_EQUAL_HEADS = frozenset({40, 64, 72, 80, 96, 112, 128, 256})
_OTHER_HEADS = {(192, 128): 8, (320, 256): 32, (512, 512): 2, (576, 512): 2}

# Norms between attention and the feed-forward network.
_NORMS = ("ffn_norm", "post_attention_norm", "post_ffw_norm", "attn_output_norm", "layer_output_norm")


@dataclass(frozen=True, slots=True)
class GraphShape:
    """Widths in values per token. `ff` is that of the dense layers, 0 if all have experts."""

    architecture: str
    embd: int
    ff: int
    is_gated: bool
    is_parallel: bool  # the feed-forward network reads what attention reads, not its result
    expert_ff: int
    experts: int
    experts_used: int
    shared_ff: int
    q: int  # all query heads of a layer together
    kv: int  # all keys of a layer
    v: int
    heads: int
    k_head: int
    v_head: int
    is_mla: bool
    mla_head: int  # with MLA: values of one decompressed key
    vocab: int
    deepstack: int
    conv: int  # width of the state-space convolution
    inner: int
    ssm_in: int
    dt: int
    state_bytes: int  # recurrent state of one sequence in a layer, without the convolution's
    per_layer: int  # per-layer embeddings of all layers together (gemma3n, gemma4)
    has_output_norm: bool
    has_flash_attention: bool  # CUDA's flash attention supports the heads of every layer


def graph_shape(hp: Hparams) -> GraphShape:
    """Widths from the tensors if these show them, else from the metadata."""
    shapes = {tensor.name.split(".", 2)[-1]: tensor.shape for tensor in hp.header.tensors}
    ff = _widest(hp, ".ffn_down.weight") or max(hp.n_ff, default=0)  # qwen's feed_forward_length is that of two
    up = _width(shapes, "ffn_up.weight", 1)
    inner, group, state = hp.integer("ssm.inner_size"), hp.integer("ssm.group_count"), hp.integer("ssm.state_size")
    return GraphShape(
        architecture=hp.architecture,
        embd=hp.n_embd,
        ff=ff if up else 0,
        is_gated="ffn_gate.weight" in shapes or up >= 2 * ff > 0,
        is_parallel=not any(name.startswith(_NORMS) for name in shapes) and _has_both_in_a_layer(hp),
        expert_ff=_width(shapes, "ffn_down_exps.weight", 0),
        experts=hp.integer("expert_count"),
        experts_used=hp.integer("expert_used_count"),
        shared_ff=_width(shapes, "ffn_down_shexp.weight", 0),
        q=max(hp.n_head, default=0) * hp.k_head(),
        kv=max(hp.n_head_kv, default=0) * hp.k_head(),
        v=max(hp.n_head_kv, default=0) * hp.v_head(),
        heads=max(hp.n_head, default=0),
        k_head=hp.k_head(),
        v_head=hp.v_head(),
        is_mla=hp.is_mla,
        mla_head=hp.integer("attention.key_length_mla"),
        vocab=hp.n_vocab,
        deepstack=hp.integer("n_deepstack_layers"),
        conv=inner + 2 * group * state,
        inner=inner,
        ssm_in=_width(shapes, "ssm_in.weight", 1),
        dt=hp.integer("ssm.time_step_rank"),
        state_bytes=4 * hp.ssm_state,
        per_layer=hp.integer("embedding_length_per_layer_input") * hp.n_layer,
        has_output_norm=any(tensor.name == "output_norm.weight" for tensor in hp.header.tensors),
        has_flash_attention=all(_has_kernel(hp, il) for il in hp.layers if hp.has_kv[il] or not any(hp.has_kv)),
    )


def _has_both_in_a_layer(hp: Hparams) -> bool:
    """Whether a layer has attention and a feed-forward network; Nemotron-H has each in layers of its own."""
    names = {tensor.name for tensor in hp.header.tensors}
    return any({f"blk.{il}.ffn_up.weight", f"blk.{il}.attn_output.weight"} <= names for il in hp.layers)


def _width(shapes: dict[str, tuple[int, ...]], name: str, dimension: int) -> int:
    shape = shapes.get(name, ())
    return shape[dimension] if dimension < len(shape) else 0


def _widest(hp: Hparams, ending: str) -> int:
    """The longest row of the tensors with such a name."""
    found = (tensor.shape for tensor in hp.header.tensors if tensor.name.endswith(ending))
    return max((shape[0] for shape in found if shape), default=0)


def _has_kernel(hp: Hparams, il: int) -> bool:
    if hp.architecture == "grok":
        return False
    heads, heads_kv = hp.n_head[il], hp.n_head_kv[il]
    if not heads or not heads_kv:
        return True
    k = hp.k_head(hp.is_windowed[il])
    v = hp.integer("attention.kv_lora_rank") if hp.is_mla else hp.v_head(hp.is_windowed[il])
    shared = heads // heads_kv
    if k in _EQUAL_HEADS:
        return k == v
    needed = _OTHER_HEADS.get((k, v))
    return needed is not None and (shared >= needed if needed == 2 else shared % needed == 0)
