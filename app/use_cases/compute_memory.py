"""Bytes of the compute buffers: what the tensors of one graph take that are alive at the same time.

The rules were fitted to llama.cpp's own accounting (b11434, no_alloc: bench/data/vram), per family of graphs; E, FF and
so on are the bytes of one tensor for all tokens of a ubatch. Facts behind them: ggml-alloc reuses what is dead, the
scheduler keeps every input of a split in as many copies as the pipeline has stages, and llama-server reserves logits
for one token per slot only (server-context.cpp, server_output_limits).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from app.entities.launch import MemoryOptions, Task
from app.use_cases import architectures as arch
from app.use_cases.context_memory import CACHE_TYPES, Cells, cells
from app.use_cases.crossings import COPIES, crossing_bytes
from app.use_cases.graph_shape import GraphShape
from app.use_cases.model_shape import ModelShape
from app.use_cases.totals import between


@dataclass(frozen=True, slots=True)
class Work:
    """The tensors of one layer for one ubatch, in bytes."""

    shape: GraphShape
    tokens: int
    slots: int

    def width(self, values: int) -> int:
        """A tensor of so many f32 values per token."""
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


def _dense(w: Work) -> int:
    return (3 if w.shape.is_gated else 1) * w.ff + 4 * w.e


def _experts(w: Work, residuals: int = 4) -> int:
    return max(3 * w.expert_ff + 4 * w.e, 2 * w.expert_e + residuals * w.e)


def _fused(w: Work) -> int:
    """CUDA's fusion keeps the experts' outputs alive beside their inputs (ggml-cuda, graph_optimize)."""
    return 3 * w.expert_ff + (2 if w.shape.experts_used > 1 else 1) * w.expert_e + 4 * w.e


def _grouped(w: Work, residuals: int = 4) -> int:
    return 3 * w.expert_ff + 2 * w.expert_e + residuals * w.e


def _beside_shared(w: Work) -> int:
    return 2 * w.expert_e + max(w.expert_ff, w.shared_ff) + 5 * w.e


def _delta_net(w: Work) -> int:
    states = 1 if w.slots == 1 else 2 * w.slots
    return 2 * w.width(w.shape.conv + w.shape.inner) + states * w.shape.state_bytes + 3 * w.e


def _mamba(w: Work) -> int:
    state = w.shape.state_bytes // 4 // max(1, w.shape.inner)
    return 6 * w.width(w.shape.inner) + 2 * w.width(w.shape.dt + 2 * state) + w.slots * w.shape.state_bytes


def _mamba2(w: Work, residuals: int = 3) -> int:
    widths = w.shape.ssm_in + 2 * w.shape.conv + w.shape.inner
    return w.width(widths) + w.slots * w.shape.state_bytes + residuals * w.e


def _rwkv(w: Work, tensors: int) -> int:
    few, many = w.slots * w.shape.state_bytes, 3 * w.slots * w.shape.state_bytes
    return max(tensors * w.e + few, (tensors - 1) * w.e + many)


def _per_layer_embeddings(w: Work) -> int:
    return max(3 * w.ff + 4 * w.e, 4 * w.ff) + w.width(w.shape.per_layer)


def _ernie(w: Work) -> int:
    return max(_experts(w, 6), 2 * w.expert_e + w.expert_ff + 3 * w.e)


def _deepstack(w: Work) -> int:
    return _dense(w) + 4 * (1 + w.shape.deepstack) * w.e


def _deepstack_experts(w: Work) -> int:
    return 2 * w.expert_e + 16 * w.e + 4 * (1 + w.shape.deepstack) * w.e


# How the experts of a family are computed; others: `_fused` beside shared experts, else `_experts`.
EXPERTS: Mapping[str, Rule] = {
    **dict.fromkeys(("olmoe", "granitemoe", "minimax-m2", "phimoe", "dbrx", "kimi-linear", "mimo2"), _experts),
    **dict.fromkeys(("qwen3moe", "gpt-oss", "llama"), lambda w: _experts(w, 5)),
    **dict.fromkeys(("glm4moe", "granitehybrid", "llama4"), _fused),
    **dict.fromkeys(("hunyuan-moe", "deepseek", "deepseek2"), lambda w: _experts(w, 6)),
    **dict.fromkeys(("qwen2moe", "nemotron_h_moe"), _beside_shared),
    **dict.fromkeys(("bailingmoe2", "gemma4"), _grouped),
    **dict.fromkeys(("qwen35moe", "smallthinker", "qwen3next"), lambda w: _grouped(w, 5)),
    "ernie4_5-moe": _ernie,
    "dots1": lambda w: 2 * w.expert_e + w.shared_ff + 4 * w.e,
}

# What else a family's layers compute.
OTHERS: Mapping[str, Rule] = {
    **dict.fromkeys(("qwen35", "qwen35moe", "qwen3next"), _delta_net),
    **dict.fromkeys(("falcon-h1", "granitehybrid", "mamba2"), _mamba2),
    **dict.fromkeys(("nemotron_h", "nemotron_h_moe"), lambda w: _mamba2(w, 4)),
    **dict.fromkeys(("gemma3n", "gemma4"), _per_layer_embeddings),
    **dict.fromkeys(("deepseek32", "glm-dsa"), lambda w: 1310720 * w.tokens),
    "jamba": lambda w: _mamba(w) + 2 * w.e,
    "mamba": _mamba,
    "qwen3vl": _deepstack,
    "qwen3vlmoe": _deepstack_experts,
    "rwkv6": lambda w: _rwkv(w, 14),
    "rwkv7": lambda w: _rwkv(w, 19),
}

# Residuals of encoders without flash attention, and with it; the rest has rotary positions.
ENCODER_RESIDUALS: Mapping[str, tuple[int, int]] = {"bert": (5, 2), "jina-bert-v2": (6, 4)}


def compute_bytes(shape: ModelShape, options: MemoryOptions, ranges: list[range]) -> list[int]:
    """The compute buffer of each device; without any device, of the CPU."""
    room = cells(shape, options)
    w = _work(shape.graph, options, room)
    flash = uses_flash_attention(shape, options)
    used = [layers for layers in ranges if layers] or [range(shape.hparams.n_layer_all + 1)]
    if len(used) > 1 and shape.graph.architecture in arch.WITHOUT_OUTPUT:
        used = [layers for layers in used if layers.start < shape.hparams.n_layer]  # no output, nothing to compute
    if len(used) > 1 and is_pipelined(shape, options):
        return [
            _peak(shape, options, w, room, flash, layers, is_whole=False)
            + COPIES * _masks(shape, w, room, flash, layers)
            + crossing_bytes(shape, options, room, w.tokens, used, index)
            for index, layers in enumerate(used)
        ]
    peaks = [_peak(shape, options, w, room, flash, layers) for layers in used]
    masks = [_masks(shape, w, room, flash, layers) for layers in used]
    # The embeddings' two inputs are on the first device only.
    totals = [
        peak + mask - (2 * w.e if index else 0) for index, (peak, mask) in enumerate(zip(peaks, masks, strict=True))
    ]
    has_output = shape.graph.architecture not in arch.WITHOUT_CACHE
    if options.devices and not any(ranges) and options.task is not Task.COMPLETION and has_output:
        logits = 4 * shape.graph.vocab * w.tokens + 7 * w.e // 2  # the output matrix is copied in to compute them
        totals[0] = max(totals[0], shape.output_bytes + logits + masks[0])
    if options.devices and used[0].start > 0:
        totals[0] = max(totals[0], _offloaded(shape, options, w, room, used[0].start) + masks[0])
    elif options.devices and options.n_cpu_moe and shape.largest_expert_bytes:
        moved = shape.largest_expert_bytes + w.expert_ff + w.expert_e + 4 * w.e
        totals[0] = max(totals[0], moved + masks[0])
    return totals


def host_compute_bytes(shape: ModelShape, options: MemoryOptions, ranges: list[range]) -> int:
    """What RAM holds for the graph: masks and embeddings on their way to the devices."""
    room = cells(shape, options)
    w = _work(shape.graph, options, room)
    everywhere = range(shape.hparams.n_layer_all + 1)
    mask = _masks(shape, w, room, uses_flash_attention(shape, options), everywhere)
    used = [layers for layers in ranges if layers]
    if len(used) > 1 and is_pipelined(shape, options):
        return COPIES * mask + 10 * w.e
    return mask + 4 * w.e


def is_pipelined(shape: ModelShape, options: MemoryOptions) -> bool:
    """Whether llama.cpp computes several ubatches at a time, one per GPU (llama-context.cpp)."""
    return (
        options.devices > 1
        and options.n_gpu_layers > shape.hparams.n_layer_all
        and options.split_mode == "layer"
        and options.kv_offload
        and not options.overrides
        and not options.n_cpu_moe
    )


def uses_flash_attention(shape: ModelShape, options: MemoryOptions) -> bool:
    """As "auto" resolves it on CUDA. The CPU's knows every head."""
    if options.flash_attn == "off" or shape.hparams.architecture == "grok":
        return False
    has_kernel = shape.graph.has_flash_attention or not options.devices
    forced = CACHE_TYPES[options.cache_type_v][1] > 1  # a quantized V cache cannot do without
    return has_kernel or forced


def _work(graph: GraphShape, options: MemoryOptions, room: Cells) -> Work:
    tokens = min(room.ctx, options.ubatch_size, options.batch_size)
    if options.task is not Task.COMPLETION:
        tokens = min(room.ctx, options.ubatch_size)  # the server makes the batch as large as the ubatch
    slots = max(1, options.parallel)
    return Work(graph, -(-tokens // slots) * slots, slots)


def _peak(
    shape: ModelShape, options: MemoryOptions, w: Work, room: Cells, flash: bool, layers: range, is_whole: bool = True
) -> int:
    """The most that is alive at a time on a device with these layers, masks aside; `is_whole`: with its inputs."""
    graph = shape.graph
    if graph.architecture in arch.WITHOUT_CACHE:
        return _encoder(w, flash)
    # The last layer computes its network only for the tokens that are asked for: one per slot.
    is_tail = layers.start >= shape.hparams.n_layer - 1 and options.task is Task.COMPLETION
    candidates = [4 * w.e if is_tail or not graph.ff else _dense(w)]
    if graph.expert_ff and not is_tail:
        usual: Rule = _grouped if graph.shared_ff else _experts
        candidates.append(EXPERTS.get(graph.architecture, usual)(w))
    other = OTHERS.get(graph.architecture)
    if other and (is_whole or not graph.deepstack):
        candidates.append(other(w))
    candidates.append(_attention(shape, options, w, room, flash, layers))
    if shape.hparams.n_layer_all in layers:
        outputs = w.slots if options.task is Task.COMPLETION else w.tokens
        residuals = 2 if options.task is Task.COMPLETION else 4
        candidates.append(4 * graph.vocab * min(w.tokens, outputs) + residuals * w.e)
    return max(candidates)


def _attention(shape: ModelShape, options: MemoryOptions, w: Work, room: Cells, flash: bool, layers: range) -> int:
    graph, (start, stop) = shape.graph, (layers.start, min(layers.stop, shape.hparams.n_layer_all))
    has_base, has_window = between(shape.base.layers, start, stop), between(shape.window.layers, start, stop)
    widest = max(room.base if has_base else 0, room.window if has_window else 0)
    if not widest:
        return 0
    if graph.is_mla:
        latent = 2 * w.q + w.width(graph.heads * graph.mla_head) + 4 * w.e
        if flash:
            return latent
    if not flash:
        scores = w.width(graph.heads * widest) + 5 * max(w.q, w.e) + 2 * w.kv
        # V is stored as with flash attention where that was found missing only afterwards: one layer is turned around.
        turned = 2 * graph.v * widest * room.streams - w.kv if options.flash_attn != "off" else 0
        return scores + turned
    if not options.devices or not _is_quantized(options) or not graph.has_flash_attention:
        return 0
    # CUDA's flash attention reads f16: one layer's whole cache is unpacked (fattn.cu, ..._get_alloc_size).
    base = room.base * shape.widest_base if has_base else 0
    window = room.window * shape.widest_window if has_window else 0
    return 2 * room.streams * max(base, window) + 5 * max(w.q, w.e)


def _is_quantized(options: MemoryOptions) -> bool:
    return options.cache_type_k != "f16" or options.cache_type_v != "f16"


def _masks(shape: ModelShape, w: Work, room: Cells, flash: bool, layers: range) -> int:
    bytes_each = 2 if flash else 4
    if shape.graph.architecture in arch.WITHOUT_CACHE:
        kinds = 1 + (0 < sum(shape.hparams.is_windowed) < shape.hparams.n_layer)
        return kinds * w.tokens * w.tokens * bytes_each
    start, stop = layers.start, min(layers.stop, shape.hparams.n_layer_all)
    kept = room.base * bool(between(shape.base.layers, start, stop))
    kept += room.window * bool(between(shape.window.layers, start, stop))
    kept += room.base * bool(between(shape.indexer_width, start, stop))
    return kept * w.tokens * bytes_each


def _encoder(w: Work, flash: bool) -> int:
    without, with_flash = ENCODER_RESIDUALS.get(w.shape.architecture, (8, 4))
    if w.shape.expert_ff:
        network = w.expert_ff + w.expert_e + 4 * w.e
    else:
        network = (3 if w.shape.is_gated else 1) * w.ff + with_flash * w.e
    return network if flash else max(network, w.width(w.shape.heads * w.tokens) + without * w.e)


def _offloaded(shape: ModelShape, options: MemoryOptions, w: Work, room: Cells, first_gpu_layer: int) -> int:
    """Layers in RAM are computed on the first GPU all the same (op_offload): their weights and caches are copied in."""
    copied = 2 * room.base * room.streams * shape.widest_base
    largest = max(shape.largest_bytes[:first_gpu_layer], default=0)
    if w.shape.expert_ff:
        return largest + w.expert_ff + w.expert_e + 5 * w.e
    return max(largest + w.ff + 8 * w.e, _dense(w) + copied)
