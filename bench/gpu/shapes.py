"""The shapes of real models from bench/data/vram, optionally with fewer layers for small machines."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property

from app.entities.gguf import GgufHeader, Tensor
from app.entities.launch import Task
from app.use_cases.model_shape.shape import BLOCK
from bench.vram_truth import header

VERSION = "kit-2"  # of the writer: files of another version are rewritten
VOCABULARY = "tokenizer.ggml.tokens"
MAX_ALIGNED = 32


@dataclass(frozen=True)
class Shape:
    """A model to write and measure."""

    name: str  # in headers.json
    quant: str
    layers: int | None = None  # keep the first `layers` layers; None: all
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
        """Size of its tensors, each padded as in the file."""
        return sum(-(-each.size_bytes // MAX_ALIGNED) * MAX_ALIGNED for each in self.header.tensors)

    @property
    def context_length(self) -> int:
        """Training context in tokens."""
        return int(str(self.header.metadata[f"{self.header.architecture}.context_length"]))

    @property
    def vocabulary(self) -> int:
        return self.header.lengths[VOCABULARY]

    @property
    def fingerprint(self) -> str:
        """Changes whenever the file's content would."""
        tensors = [(each.name, each.shape, each.type) for each in self.header.tensors]
        content = json.dumps([VERSION, dict(self.header.metadata), dict(self.header.lengths), tensors], default=list)
        return f"{VERSION} {hashlib.sha256(content.encode()).hexdigest()[:16]}"


def with_layers(whole: GgufHeader, layers: int) -> GgufHeader:
    """The same model with only its first `layers` layers."""
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
