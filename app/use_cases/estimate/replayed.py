"""Which starts are replayed, and which layers stand for all."""

from __future__ import annotations

from collections.abc import Iterable

from app.entities.launch import ModelOptions, Task
from app.use_cases.estimate.graph_rules import Work
from app.use_cases.estimate.kv_cache import CacheCells, is_quantized
from app.use_cases.estimate.replay import Replay
from app.use_cases.model_shape import architectures as arch
from app.use_cases.model_shape.shape import ModelShape

_FIRST_LAYERS = 2

# Their layers have tensors that the replay does not know.
OTHER_LAYERS = frozenset(
    {
        *("bitnet", "cohere2moe", "gptneox", "graniteswitch", "hunyuan_vl", "minimax-m3", "openelm", "paddleocr"),
        *("pockettts", "qwen3tts", "t5", "t5encoder", "talkie"),
    }
)


def is_replayed(shape: ModelShape, options: ModelOptions) -> bool:
    """Whether weights or the cache are in RAM, and the layers have attention and a feed-forward network as usual."""
    hp, graph = shape.hparams, shape.graph
    in_ram = options.n_gpu_layers <= hp.n_layer_all or not options.kv_offload
    if not options.devices or not in_ram or options.task is not Task.COMPLETION:
        return False
    if options.overrides or options.n_cpu_moe or graph.architecture in OTHER_LAYERS | arch.ATTENDS_TO_BATCH:
        return False
    computed_in_ram = not graph.has_flash_attention and is_quantized(options.cache_type_v)
    special = graph.is_mla or graph.deepstack or graph.per_layer or hp.has_looped_layers or computed_in_ram
    return not special and not any(hp.has_state) and all(hp.has_kv[: hp.n_layer])


def replayed_bytes(
    shape: ModelShape,
    options: ModelOptions,
    w: Work,
    cells: CacheCells,
    flash: bool,
    in_ram: range,
    own: range,
    begins: bool,
) -> int:
    """Bytes of a device's compute buffer, masks included. `in_ram`: layers that it computes with weights from RAM;
    `begins`: whether the graph begins there."""
    replay = Replay(shape, options, w, cells, flash)
    if begins:
        replay.begin_first(0, bool(in_ram))
    else:
        replay.begin_other(own.start)
    for il in _representatives(shape, in_ram):
        replay.layer(il, True, True)
    for il in _representatives(shape, own):
        replay.layer(il, False, not options.kv_offload)
    return replay.peak


def _representatives(shape: ModelShape, layers: range) -> list[int]:
    """The first layers, and the first of each kind: with a window or without, with experts or without."""
    firsts: dict[tuple[bool, bool], int] = {}
    for il in reversed(layers):
        firsts[shape.hparams.is_windowed[il], "ffn_down_exps" in shape.layer_weights[il]] = il
    return sorted({*layers[: _FIRST_LAYERS + 1], *_and_next(firsts.values(), layers)})


def _and_next(some: Iterable[int], layers: range) -> Iterable[int]:
    return (each for il in some for each in (il, il + 1) if each in layers)
