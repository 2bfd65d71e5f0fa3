"""Models in the shapes of real ones, as bench/data/vram has them, with fewer layers where the machine is small."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property

from app.entities.gguf import GgufHeader, Tensor
from app.entities.launch import Task
from app.use_cases.model_shape.shape import BLOCK
from bench.vram_truth import header

VERSION = "kit-2"  # changes with what the writer writes: a file of another version is written anew
VOCABULARY = "tokenizer.ggml.tokens"
MAX_ALIGNED = 32


@dataclass(frozen=True)
class Shape:
    """A model to write and to measure."""

    name: str  # in headers.json
    quant: str
    layers: int | None = None  # the first so many; None: all
    task: Task = Task.COMPLETION

    @property
    def label(self) -> str:
        cut = {None: "", 1: ", 1 layer"}.get(self.layers, f", {self.layers} layers")
        return f"{self.name} {self.quant}{cut}"

    @property
    def file_name(self) -> str:
        return f"{self.name}.{self.quant}{f'.{self.layers}-layers' if self.layers else ''}.gguf"

    @cached_property
    def header(self) -> GgufHeader:
        whole = header(self.name, self.quant)
        return with_layers(whole, self.layers) if self.layers else whole

    @property
    def data_bytes(self) -> int:
        """Of its tensors, each padded as in the file."""
        return sum(-(-each.size_bytes // MAX_ALIGNED) * MAX_ALIGNED for each in self.header.tensors)

    @property
    def context_length(self) -> int:
        """Tokens it was trained with."""
        return int(str(self.header.metadata[f"{self.header.architecture}.context_length"]))

    @property
    def vocabulary(self) -> int:
        return self.header.lengths[VOCABULARY]

    @property
    def fingerprint(self) -> str:
        """Changes whenever the file would."""
        tensors = [(each.name, each.shape, each.type) for each in self.header.tensors]
        said = json.dumps([VERSION, dict(self.header.metadata), dict(self.header.lengths), tensors], default=list)
        return f"{VERSION} {hashlib.sha256(said.encode()).hexdigest()[:16]}"


def with_layers(whole: GgufHeader, layers: int) -> GgufHeader:
    """The same model with its first `layers` layers only: as wide, and not as deep."""
    count = f"{whole.architecture}.block_count"
    before = whole.metadata[count]
    metadata = {
        key: value[:layers] if isinstance(value, tuple) and len(value) == before else value
        for key, value in whole.metadata.items()
    }
    return replace(
        whole, metadata={**metadata, count: layers}, tensors=tuple(t for t in whole.tensors if _layer(t) < layers)
    )


def _layer(tensor: Tensor) -> int:
    found = BLOCK.match(tensor.name)
    return int(found[1]) if found else 0
