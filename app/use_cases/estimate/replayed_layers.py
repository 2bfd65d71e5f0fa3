"""Replayed layers: the compute buffer of a device when weights or the KV cache are in RAM.

The copies of these are so large that the gaps between the other tensors decide where they fit, and with it the peak:
no formula over tensor sizes is enough. The allocations are therefore made again in the order of the graph after its
scheduler (llama.cpp b11549, ggml-backend.cpp: ggml_backend_sched_split_graph): what a split copies in is allocated at
its start, and an input is freed after the last node that reads it. Layers of a kind repeat each other's allocations, so
the first two stand for all.
"""

from __future__ import annotations

from app.entities.launch import ModelOptions, Task
from app.use_cases.estimate.graph_replay import GraphReplay
from app.use_cases.estimate.graph_rules import Work
from app.use_cases.estimate.kv_cache import CacheCells, is_quantized
from app.use_cases.estimate.replayed_attention import attention, output
from app.use_cases.estimate.tensor_allocator import Allocation
from app.use_cases.model_shape import architectures as arch
from app.use_cases.model_shape.shape import ModelShape

# Their layers have tensors that are not replayed here.
_OTHER_LAYERS = (
    arch.ATTENDS_TO_BATCH
    | arch.WITH_ATTENTION_BIAS
    | {
        *("bitnet", "cohere2moe", "gptneox", "graniteswitch", "hunyuan_vl", "minimax-m3", "openelm", "paddleocr"),
        *("pockettts", "qwen3tts", "talkie"),
    }
)
_INTO_RESIDUAL = frozenset({"phi3"})  # ggml_add(residual, cur): the sum takes the place of its first operand


def is_replayed(shape: ModelShape, options: ModelOptions) -> bool:
    """Whether layers or the cache are in RAM, and every layer is plain attention and a feed-forward network."""
    hp, graph = shape.hparams, shape.graph
    in_ram = options.n_gpu_layers <= hp.n_layer_all or not options.kv_offload
    if not (in_ram and options.devices) or options.task is not Task.COMPLETION:
        return False
    if options.overrides or options.n_cpu_moe or graph.architecture in _OTHER_LAYERS:
        return False
    attends_on_cpu = not graph.has_flash_attention and is_quantized(options.cache_type_v)
    special = graph.is_mla or graph.deepstack or graph.per_layer or hp.has_looped_layers or attends_on_cpu
    return not special and not any(hp.has_state) and hp.n_layer > 0 and all(hp.has_kv[: hp.n_layer])


def replayed_bytes(
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
            found.append(_first_bytes(GraphReplay(shape, options, w, cells, flash), in_ram, own))
            in_ram = range(0)
        else:
            layers = _representatives(shape, own)
            kinds = (*(shape.each_layer[il].kind for il in layers), n - 1 in own)
            if kinds not in measured:
                measured[kinds] = _other_bytes(GraphReplay(shape, options, w, cells, flash), layers)
            found.append(measured[kinds])
    return found


def _first_bytes(replay: GraphReplay, in_ram: range, own: range) -> int:
    """The first device that computes: it also computes the layers in RAM."""
    shape, kv_offload = replay.shape, replay.options.kv_offload
    replay.begin(shape.each_layer[0], bool(in_ram))
    for il in _representatives(shape, in_ram):
        _replay_layer(replay, il, has_weights_in_ram=True, has_cache_in_ram=True)
    for il in own[:2] if in_ram else _representatives(shape, own):
        _replay_layer(replay, il, has_weights_in_ram=False, has_cache_in_ram=not kv_offload)
    return replay.peak_bytes


def _other_bytes(replay: GraphReplay, layers: list[int]) -> int:
    replay.begin_after_another(replay.shape.each_layer[layers[0]])
    for il in layers:
        _replay_layer(replay, il, has_weights_in_ram=False, has_cache_in_ram=not replay.options.kv_offload)
    return replay.peak_bytes


def _representatives(shape: ModelShape, layers: range) -> list[int]:
    """The first two layers, and the first of each other kind."""
    found, seen = list(layers[:2]), {shape.each_layer[il].kind for il in layers[:2]}
    for il in layers[2:]:
        if shape.each_layer[il].kind not in seen:
            seen.add(shape.each_layer[il].kind)
            found.append(il)
    return found


def _replay_layer(replay: GraphReplay, il: int, has_weights_in_ram: bool, has_cache_in_ram: bool) -> None:
    """The last layer's feed-forward network is left out: it computes few tokens."""
    replay.layer = replay.shape.each_layer[il]
    replay.has_weights_in_ram, replay.has_cache_in_ram = has_weights_in_ram, has_cache_in_ram
    normed, replay.norm = replay.norm, None
    if normed is None:
        normed = replay.allocate(replay.w.e if "attn_norm" in replay.layer.weights or replay.is_parallel else 0)
    attended = attention(replay, normed)
    if il == replay.shape.hparams.n_layer - 1:
        return
    if replay.is_parallel:
        _parallel_network(replay, normed, attended)
    else:
        _network(replay, attended)


def _parallel_network(replay: GraphReplay, normed: Allocation, attended: Allocation) -> None:
    """The network reads what attention read; attention's output matrix comes after it."""
    result = _dense(replay, normed)
    replay.free(replay.residual or result)
    replay.free(output(replay, attended))
    replay.residual = result


def _network(replay: GraphReplay, attended: Allocation) -> None:
    residual = output(replay, attended)
    if replay.residual:
        replay.free(replay.residual)
    normed = replay.allocate(replay.w.e)
    result = _experts(replay, normed) if replay.layer.has_experts else _dense(replay, normed)
    if replay.architecture in _INTO_RESIDUAL:
        result, residual = residual, result
    replay.free(residual)
    replay.residual = result


def _dense(replay: GraphReplay, normed: Allocation, suffix: str = "") -> Allocation:
    """A network, or with the suffix "_shexp" the shared expert."""
    size = replay.w.shared_ff if suffix else replay.w.width(replay.layer.ff)
    gate, up = f"ffn_gate{suffix}", f"ffn_up{suffix}"
    if gate in replay.layer.weights:
        gated = replay.mul_mat(gate, size)
        active = replay.compute(size, gated, replay.mul_mat(up, size, normed))
    elif replay.shape.graph.is_gated:
        active = replay.compute(size, replay.mul_mat(up, 2 * size, normed))
    else:
        active = replay.mul_mat(up, size, normed)
    return replay.mul_mat(f"ffn_down{suffix}", replay.w.e, active)


def _experts(replay: GraphReplay, normed: Allocation) -> Allocation:
    w = replay.w
    size, has_shared = w.expert_ff, w.shape.shared_ff > 0
    if "ffn_gate_up_exps" in replay.layer.weights:
        active = replay.compute(size, replay.mul_mat("ffn_gate_up_exps", 2 * size))
    else:
        gated = replay.mul_mat("ffn_gate_exps", size)
        active = replay.compute(size, gated, replay.mul_mat("ffn_up_exps", size))
    if not has_shared:
        replay.free(normed)
    products = replay.mul_mat("ffn_down_exps", w.expert_e, active)
    result = replay.compute(w.e, replay.allocate(w.expert_e), products)
    if has_shared:
        replay.free(_dense(replay, normed, "_shexp"))
    return result
