"""Projector (mmproj): memory of the encoder for images or audio - its weights, and the graph of one image.

Source: llama.cpp b11434, tools/mtmd/clip.cpp (clip_model_loader::load_hparams: the image a server warms up with) and
mtmd_get_memory_usage; the rules are fitted to bench/data/vram/extra_truth.csv.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from app.entities.gguf import GgufHeader
from app.entities.launch import ModelOptions
from app.entities.memory import DeviceMemory
from app.use_cases.model_shape.shape import gpu_bytes

QWEN3, QWEN2_5, GEMMA3 = "qwen3vl_merger", "qwen2.5vl_merger", "gemma3"
MEASURED = frozenset({QWEN3, QWEN2_5, GEMMA3})

# Projectors for images of any size: tokens of the warm-up image, and patches per side of a token.
_WARM_UP: Mapping[str, tuple[int, int]] = {
    **dict.fromkeys((QWEN3, QWEN2_5, "qwen2vl_merger", "dots_ocr", "glm4v", "paddleocr"), (46 * 46, 2)),
    **dict.fromkeys(("kimivl", "kimik25", "lfm2"), (16 * 16, 2)),
    **dict.fromkeys(("pixtral", "lightonocr", "phi4"), (16 * 16, 1)),
    **dict.fromkeys(("gemma4v", "gemma4uv"), (16 * 16, 3)),
}
AUDIO_POSITIONS = 1500  # 30 seconds, as in Whisper's encoder


@dataclass(frozen=True, slots=True)
class Projector:
    """A projector's dimensions; widths are values per image patch."""

    kind: str
    weights_bytes: int  # on a GPU
    host_weights_bytes: int
    embd: int
    ff: int
    heads: int
    patch: int  # pixels per side
    image: int
    merge: int  # patches per side of a token; 0: unknown
    audio_embd: int
    audio_ff: int


def projector(header: GgufHeader) -> Projector:
    """The projector with this header. Never raises: missing values count as 0."""

    def count(key: str) -> int:
        value = header.metadata.get(f"clip.{key}")
        return value if type(value) is int and 0 < value < 2**24 else 0

    kind = header.metadata.get("clip.projector_type") or header.metadata.get("clip.vision.projector_type")
    return Projector(
        kind=str(kind),
        weights_bytes=sum(map(gpu_bytes, header.tensors)),
        host_weights_bytes=sum(tensor.size_bytes for tensor in header.tensors),
        embd=count("vision.embedding_length"),
        ff=count("vision.feed_forward_length"),
        heads=count("vision.attention.head_count"),
        patch=count("vision.patch_size"),
        image=count("vision.image_size"),
        merge=count("vision.spatial_merge_size") or count("vision.projector.scale_factor"),
        audio_embd=count("audio.embedding_length"),
        audio_ff=count("audio.feed_forward_length"),
    )


def projector_memory(of: Projector, options: ModelOptions) -> tuple[DeviceMemory, DeviceMemory]:
    """Needs on the first device, and in RAM."""
    patches = _patches(of, options)
    graph = max(_graph(of, options, patches), 4 * AUDIO_POSITIONS * (of.audio_ff + 6 * of.audio_embd))
    inputs = 4 * patches * (3 * of.patch**2 + (0 if of.kind == GEMMA3 else 4))
    if of.kind == QWEN2_5:
        inputs += (4 if options.flash_attn == "off" else 2) * patches**2  # the window mask
    if options.devices and options.mmproj_offload:
        return DeviceMemory(of.weights_bytes, 0, graph), DeviceMemory(0, 0, inputs)
    return DeviceMemory(), DeviceMemory(of.host_weights_bytes, 0, max(graph, inputs))


def _patches(of: Projector, options: ModelOptions) -> int:
    if of.kind not in _WARM_UP:
        return (of.image // of.patch) ** 2 if of.patch else 0
    tokens, merge = _WARM_UP[of.kind]
    limited = min(tokens, options.image_max_tokens or tokens)
    return math.isqrt(limited) ** 2 * (of.merge or merge) ** 2


def _graph(of: Projector, options: ModelOptions, patches: int) -> int:
    pixels = 3 * of.patch**2 + 4
    if options.flash_attn == "off":
        scores = 4 * of.heads * patches**2
        widths = {GEMMA3: 6 * of.embd, QWEN2_5: 5 * of.embd + pixels}.get(of.kind, 10 * of.embd + pixels)
        return scores + 4 * patches * widths + (4 * patches**2 if of.kind == QWEN2_5 else 0)
    widths = {
        GEMMA3: of.ff + 3 * of.embd,
        QWEN3: max(9 * of.embd, of.ff + 5 * of.embd) + pixels,
        QWEN2_5: 3 * of.ff + 2 * of.embd + pixels,
    }.get(of.kind, of.ff + 9 * of.embd + pixels)
    return 4 * patches * widths + (2 * patches**2 if of.kind == QWEN2_5 else 0)
