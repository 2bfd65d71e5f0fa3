"""Whether a projector fits a model: both have embeddings of the same width, in values per token.

llama-server exits while it loads a model and a projector that differ ("mismatch between text model and mmproj").
Source: llama.cpp b11434, tools/mtmd/mtmd.cpp (mtmd_context), tools/mtmd/clip.cpp (clip_n_mmproj_embd, load_tensors),
src/llama-hparams.cpp (n_embd_inp). `clip.vision.projection_dim` is not what it compares: older converters wrote the
vision model's own there, such as CLIP's 768.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from app.entities.gguf import GgufHeader
from app.use_cases.model_shape.hparams import Hparams

# By type: the tensor that projects, and which of its dimensions is the width.
_MLP = "mm.2.weight", 1
_AUDIO_MLP = "mm.a.mlp.2.weight", 1
_FC = "mm.model.fc.weight", 1
_INTERN = "mm.model.mlp.3.weight", 1
_GEMMA4 = "mm.input_projection.weight", 1
_PROJECTING: Mapping[str, tuple[str, int]] = {
    **dict.fromkeys(("mlp", "phi4", "pixtral", "lightonocr", "dots_ocr", "dots3note_v", "muse-glimmer", "lfm2"), _MLP),
    **dict.fromkeys(("kimivl", "paddleocr", "kimik25", "yasa2", "deepseek4v", "qwen2vl_merger", "exaone4_5"), _MLP),
    **dict.fromkeys(("qwen2.5vl_merger", "qwen2.5o", "qwen3vl_merger", "ling3vl", "mimovl", "youtuvl"), _MLP),
    **dict.fromkeys(("ultravox", "voxtral", "musicflamingo", "qwen3a", "glma", "mimo_audio"), _AUDIO_MLP),
    **dict.fromkeys(("idefics3", "llama4", "step3vl", "hunyuanvl", "deepseekocr", "deepseekocr2"), _FC),
    **dict.fromkeys(("internvl", "nemotron_v2_vl"), _INTERN),
    **dict.fromkeys(("gemma4v", "gemma4uv"), _GEMMA4),
    **dict.fromkeys(("gemma4a", "gemma4ua"), ("mm.a.input_projection.weight", 1)),
    **dict.fromkeys(("gemma3", "gemma3nv"), ("mm.input_projection.weight", 0)),
    **dict.fromkeys(("glm4v", "glm5v", "cogvlm"), ("mm.down.weight", 1)),
    "adapter": ("adapter.linear.dense_4h_to_h.weight", 1),
    "resampler": ("resampler.proj.weight", 0),
    "qwen2a": ("mm.a.fc.weight", 1),
}
# In the order in which llama.cpp reads them. A file for both images and audio has one width for both.
_TYPE_KEYS = "clip.projector_type", "clip.vision.projector_type", "clip.audio.projector_type"
_DEEPSTACK = re.compile(r"v\.deepstack\.([0-9]{1,4})\.")


def projector_width(header: GgufHeader) -> int | None:
    """The width of the embeddings that this projector produces; None if unknown."""
    kind = str(next((value for key in _TYPE_KEYS if (value := header.metadata.get(key))), None))
    if kind not in _PROJECTING:
        return _declared_width(header)
    name, axis = _PROJECTING[kind]
    shape = next((tensor.shape for tensor in header.tensors if tensor.name == name), ())
    if len(shape) <= axis:
        return None
    return shape[axis] * (1 + _deepstack_layers(header) * (kind == "qwen3vl_merger")) or None


def _declared_width(header: GgufHeader) -> int | None:
    """Of a type that is not listed: what llama.cpp's converter has written since it writes a type (conversion/base.py).

    Deepstack multiplies it, by a rule of each type.
    """
    if header.metadata.get("general.type") != "mmproj" or _deepstack_layers(header):
        return None
    declared = header.metadata.get("clip.vision.projection_dim") or header.metadata.get("clip.audio.projection_dim")
    return declared if type(declared) is int and declared > 0 else None


def model_width(header: GgufHeader) -> int | None:
    """The width of the embeddings that this model takes; None if unknown."""
    hp = Hparams(header)
    if hp.value("deepstack_mapping") is not None:  # Granite: depends on the mapping
        return None
    return hp.n_embd * (1 + hp.integer("n_deepstack_layers")) or None


def _deepstack_layers(header: GgufHeader) -> int:
    return len({match[1] for tensor in header.tensors if (match := _DEEPSTACK.match(tensor.name))})
