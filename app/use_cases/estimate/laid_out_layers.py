"""Layers laid out as ggml-alloc does: the compute buffer of a device whose weights or cache are in RAM.

What is copied in is so large that the gaps between the other tensors decide where it fits, and with it the peak. The
order is that of the graph after its scheduler (llama.cpp b11549, ggml-backend.cpp: ggml_backend_sched_split_graph):
what a split copies in is taken at its start, and what a node reads is given back after it. A layer is like the one
before it, so that the first two of each kind do.
"""

from __future__ import annotations

from app.entities.launch import ModelOptions, Task
from app.use_cases.estimate.arena import Room
from app.use_cases.estimate.graph_rules import Work
from app.use_cases.estimate.kv_cache import CacheCells, is_quantized
from app.use_cases.estimate.laid_out_attention import attention, output
from app.use_cases.estimate.layout import Layout
from app.use_cases.model_shape import architectures as arch
from app.use_cases.model_shape.shape import ModelShape

# Their layers have tensors that are not laid out here.
_OTHER_LAYERS = arch.ATTENDS_TO_BATCH | {
    *("bitnet", "cohere2moe", "gptneox", "graniteswitch", "hunyuan_vl", "minimax-m3", "openelm", "paddleocr"),
    *("pockettts", "qwen3tts", "t5", "t5encoder", "talkie"),
}
_INTO_RESIDUAL = frozenset({"phi3"})  # ggml_add(residual, cur): the sum takes the place of its first operand


def is_laid_out(shape: ModelShape, options: ModelOptions) -> bool:
    """Whether layers or the cache are in RAM, and the layers have attention and a feed-forward network as usual."""
    hp, graph = shape.hparams, shape.graph
    in_ram = options.n_gpu_layers <= hp.n_layer_all or not options.kv_offload
    if not (in_ram and options.devices) or options.task is not Task.COMPLETION:
        return False
    if options.overrides or options.n_cpu_moe or graph.architecture in _OTHER_LAYERS:
        return False
    on_cpu = not graph.has_flash_attention and is_quantized(options.cache_type_v)
    special = graph.is_mla or graph.deepstack or graph.per_layer or hp.has_looped_layers or on_cpu
    return not special and not any(hp.has_state) and hp.n_layer > 0 and all(hp.has_kv[: hp.n_layer])


def laid_out_bytes(
    shape: ModelShape, options: ModelOptions, w: Work, cells: CacheCells, flash: bool, ranges: list[range]
) -> list[int]:
    """Bytes of the compute buffer of each device with layers, masks included; 0 for the others."""
    n, found, measured = shape.hparams.n_layer, list[int](), dict[tuple[int, ...], int]()
    in_ram = range(min(ranges[0].start, n))
    for each in ranges:
        own = range(each.start, min(each.stop, n))
        if not (in_ram or own):
            found.append(0)
        elif in_ram or not any(found):
            found.append(_first_bytes(Layout(shape, options, w, cells, flash), in_ram, own))
            in_ram = range(0)
        else:
            layers = _representatives(shape, own)
            kinds = (*(shape.each_layer[il].kind for il in layers), n - 1 in own)
            if kinds not in measured:
                measured[kinds] = _other_bytes(Layout(shape, options, w, cells, flash), layers)
            found.append(measured[kinds])
    return found


def _first_bytes(to: Layout, in_ram: range, own: range) -> int:
    to.begin(to.shape.each_layer[0], bool(in_ram))
    for il in _representatives(to.shape, in_ram):
        _lay_out(to, il, True, True)
    for il in own[:2] if in_ram else _representatives(to.shape, own):
        _lay_out(to, il, False, not to.options.kv_offload)
    return to.arena.peak


def _other_bytes(to: Layout, layers: list[int]) -> int:
    to.begin_after_another(to.shape.each_layer[layers[0]])
    for il in layers:
        _lay_out(to, il, False, not to.options.kv_offload)
    return to.arena.peak


def _representatives(shape: ModelShape, layers: range) -> list[int]:
    """The first two layers, and the first of each other kind."""
    found, seen = list(layers[:2]), {shape.each_layer[il].kind for il in layers[:2]}
    for il in layers[2:]:
        if shape.each_layer[il].kind not in seen:
            seen.add(shape.each_layer[il].kind)
            found.append(il)
    return found


def _lay_out(to: Layout, il: int, is_in_ram: bool, has_cache_in_ram: bool) -> None:
    """One layer; without the feed-forward network of the last one, which is for few tokens."""
    to.layer, to.is_in_ram, to.has_cache_in_ram = to.shape.each_layer[il], is_in_ram, has_cache_in_ram
    normed, to.norm = to.norm, None
    if normed is None:
        normed = to.take(to.w.e if "attn_norm" in to.layer.weights or to.is_parallel else 0)
    attended = attention(to, normed)
    if il < to.shape.hparams.n_layer - 1:
        (_parallel_network if to.is_parallel else _network)(to, normed, attended)


def _parallel_network(to: Layout, normed: Room, attended: Room) -> None:
    """The network reads what attention read; attention's output matrix comes after it."""
    found = _dense(to, normed)
    to.free(to.residual or found)
    to.free(output(to, attended))
    to.residual = found


def _network(to: Layout, _: Room, attended: Room) -> None:
    residual = output(to, attended)
    if to.residual:
        to.free(to.residual)
    normed = to.take(to.w.e)
    found = _experts(to, normed) if to.layer.has_experts else _dense(to, normed)
    if to.architecture in _INTO_RESIDUAL:
        found, residual = residual, found
    to.free(residual)
    to.residual = found


def _dense(to: Layout, normed: Room, ending: str = "") -> Room:
    size = to.w.shared_ff if ending else to.w.width(to.layer.ff)
    gate, up = f"ffn_gate{ending}", f"ffn_up{ending}"
    if gate in to.layer.weights:
        active = to.instead_of(to.times(gate, size), to.times(up, size, normed), size=size)
    elif to.shape.graph.is_gated:
        active = to.instead_of(to.times(up, 2 * size, normed), size=size)
    else:
        active = to.times(up, size, normed)
    return to.times(f"ffn_down{ending}", to.w.e, active)


def _experts(to: Layout, normed: Room) -> Room:
    size, has_shared = to.w.expert_ff, to.w.shape.shared_ff > 0
    if "ffn_gate_up_exps" in to.layer.weights:
        active = to.instead_of(to.times("ffn_gate_up_exps", 2 * size), size=size)
    else:
        active = to.instead_of(to.times("ffn_gate_exps", size), to.times("ffn_up_exps", size), size=size)
    if not has_shared:
        to.free(normed)
    products = to.times("ffn_down_exps", to.w.expert_e, active)
    found = to.instead_of(to.take(to.w.expert_e), products, size=to.w.e)
    if has_shared:
        to.free(_dense(to, normed, "_shexp"))
    return found
