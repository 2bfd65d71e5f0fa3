"""What a GGUF file is for, by its header: a model, or a companion of one.

Sources: llama.cpp b11434, gguf-py/gguf/constants.py (GGUFType), src/llama-arch.cpp, conversion/ (`--mtp`), and
tools/cvector-generator/cvector-generator.cpp.
"""

from __future__ import annotations

from app.entities.gguf import FileKind, GgufHeader, Tensor
from app.use_cases.model_shape.hparams import Hparams
from app.use_cases.model_shape.shape import BLOCK

_TYPES = {
    "mmproj": FileKind.PROJECTOR,
    "adapter": FileKind.ADAPTER,
    "imatrix": FileKind.IMPORTANCE_MATRIX,
}
_ARCHITECTURES = {"clip": FileKind.PROJECTOR, "controlvector": FileKind.CONTROL_VECTOR}
TENSORS_OF_A_LAYER = 4  # norms, attention or state, and a feed-forward network have at least six
_DRAFT_PREFIXES = ("eagle", "dflash", "dspark")  # eagle3 is a converter's name; others are numbered likewise


def file_kind(header: GgufHeader) -> FileKind:
    """The kind of the file with this header. An unknown type counts as a model: why_not_servable reports it."""
    kind = _ARCHITECTURES.get(header.architecture) or _TYPES.get(str(header.metadata.get("general.type")))
    if kind is None and (_drafts_by_architecture(header.architecture) or _has_only_mtp_layers(header)):
        return FileKind.DRAFT_HEAD
    return kind or FileKind.MODEL


def may_have_only_mtp_layers(header: GgufHeader, tensors: int) -> bool:
    """Whether the names of its tensors decide. `tensors`: their number; a model has more than a few in every layer."""
    hp = Hparams(header)
    is_small = not hp.n_layer or tensors < hp.n_layer * TENSORS_OF_A_LAYER
    return is_small and hp.integer("nextn_predict_layers") > 0


def _drafts_by_architecture(architecture: str) -> bool:
    return architecture.endswith("-assistant") or architecture.startswith(_DRAFT_PREFIXES)


def _has_only_mtp_layers(header: GgufHeader) -> bool:
    """As llama.cpp decides (src/models/qwen35.cpp, `mtp_only`): MTP layers are the last, and the first one is missing.

    Embeddings and output matrix do not tell: `--mtp` exports them too.
    """
    hp = Hparams(header)
    if not hp.integer("nextn_predict_layers"):
        return False
    layers = {layer for tensor in header.tensors if (layer := _layer(tensor)) is not None}
    return bool(layers) and min(layers) >= hp.n_layer


def _layer(tensor: Tensor) -> int | None:
    block = BLOCK.match(tensor.name)
    return int(block[1]) if block else None
