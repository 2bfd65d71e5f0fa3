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
_DRAFT_PREFIXES = ("eagle", "dflash", "dspark")  # eagle3 is a converter's name; others are numbered likewise


def file_kind(header: GgufHeader) -> FileKind:
    """The kind of the file with this header. An unknown type counts as a model: why_not_servable reports it."""
    kind = _ARCHITECTURES.get(header.architecture) or _TYPES.get(str(header.metadata.get("general.type")))
    if kind is None and (_drafts_by_architecture(header.architecture) or _has_only_mtp_layers(header)):
        return FileKind.DRAFT_HEAD
    return kind or FileKind.MODEL


def may_be_draft_head(header: GgufHeader) -> bool:
    """Whether only its tensors tell: models with layers for multi-token prediction (MTP), and those layers alone."""
    return Hparams(header).integer("nextn_predict_layers") > 0


def _drafts_by_architecture(architecture: str) -> bool:
    return architecture.endswith("-assistant") or architecture.startswith(_DRAFT_PREFIXES)


def _has_only_mtp_layers(header: GgufHeader) -> bool:
    """As llama.cpp decides (src/models/qwen35.cpp, `mtp_only`): MTP layers are the last, and the first one is missing.

    Embeddings and output matrix do not tell: `--mtp` exports them too.
    """
    if not may_be_draft_head(header):
        return False
    layers = {layer for tensor in header.tensors if (layer := _layer(tensor)) is not None}
    return bool(layers) and min(layers) >= Hparams(header).n_layer


def _layer(tensor: Tensor) -> int | None:
    block = BLOCK.match(tensor.name)
    return int(block[1]) if block else None
