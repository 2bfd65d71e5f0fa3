"""The header of a GGUF file: metadata and tensor descriptions, without tensor data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

Scalar = bool | int | float | str
Value = Scalar | tuple[Scalar, ...]


class FileKind(StrEnum):
    """What a GGUF file is for. All but models are companions: they are loaded beside a model, never by themselves."""

    MODEL = "model"
    PROJECTOR = "projector"
    DRAFT_HEAD = "draft head"
    ADAPTER = "adapter"
    IMPORTANCE_MATRIX = "importance matrix"
    CONTROL_VECTOR = "control vector"


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor's description."""

    name: str
    shape: tuple[int, ...]  # in ggml's order (`ne`): fastest-varying dimension first
    type: str  # ggml type, such as "Q4_K"
    size_bytes: int  # of the data (ggml_nbytes)


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The merged headers of all parts of one model."""

    metadata: Mapping[str, Value]  # of the first part; arrays longer than a few thousand values are omitted
    lengths: Mapping[str, int]  # of every array, also omitted ones: "tokenizer.ggml.tokens" gives the vocabulary size
    tensors: tuple[Tensor, ...]  # of all parts
    has_infill_tokens: bool = False  # the vocabulary has a token for the middle of a text

    @property
    def architecture(self) -> str:
        """llama.cpp's architecture name, such as "qwen3moe"; "" if the file has none."""
        return str(self.metadata.get("general.architecture", ""))
