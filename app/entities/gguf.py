"""What the header of a GGUF file says: its metadata and its tensors, without their data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Scalar = bool | int | float | str
Value = Scalar | tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the file."""

    name: str
    shape: tuple[int, ...]  # as in the file and in ggml's `ne`: the fastest dimension first
    type: str  # its ggml type, as "Q4_K"
    size_bytes: int  # of its data (ggml_nbytes)


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The headers of all parts of one model, as one."""

    metadata: Mapping[str, Value]  # of the first part; an array longer than a few thousand values is left out
    lengths: Mapping[str, int]  # of every array, those left out too: "tokenizer.ggml.tokens" is the vocabulary
    tensors: tuple[Tensor, ...]  # of all parts

    @property
    def architecture(self) -> str:
        """llama.cpp's name for the family of graphs it belongs to, as "qwen3moe"; empty if the file has none."""
        return str(self.metadata.get("general.architecture", ""))
