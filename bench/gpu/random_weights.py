"""Random bytes that are valid weights of any ggml type: finite, distributed about as N(0, 0.02).

A quantized block consists of a few scales and many small integers. The integers may have any bits; the scales, mostly
16-bit floats, are chosen so that the values are small. Layouts: ggml/src/ggml-common.h (llama.cpp b11434).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from workers.gguf.constants import TENSOR_TYPES

if TYPE_CHECKING:
    import numpy as np

STD = 0.02
TILE_BYTES = 8 * 1024**2  # of random data; each tensor repeats it, from a different offset


@dataclass(frozen=True, slots=True)
class _Half:
    """A 16-bit float at this byte offset of a block."""

    at: int
    mean: float


# The scales are divided by the standard deviation of random integers times random sub-scales.
_SCALES: dict[str, tuple[_Half, ...]] = {
    "Q4_0": (_Half(0, STD / 4.6),),
    "Q4_1": (_Half(0, STD / 4.6), _Half(2, -7.5 * STD / 4.6)),
    "Q5_0": (_Half(0, STD / 9.2),),
    "Q5_1": (_Half(0, STD / 9.2), _Half(2, -15.5 * STD / 9.2)),
    "Q8_0": (_Half(0, STD / 74),),
    "Q2_K": (_Half(80, STD / 12), _Half(82, 1.5 * STD / 12)),
    "Q3_K": (_Half(108, STD / 42),),
    "Q4_K": (_Half(0, STD / 250), _Half(2, 7.5 * STD / 250)),
    "Q5_K": (_Half(0, STD / 500), _Half(2, 15.5 * STD / 500)),
    "Q6_K": (_Half(208, STD / 1370),),
    "IQ4_NL": (_Half(0, STD / 74),),
    "IQ4_XS": (_Half(0, STD / 1370),),
}
_MXFP4_EXPONENT = 120  # 2^(120 - 127) is about STD / 2.9

# Substrings of the names of tensors that are not weights of a matrix product.
_ONES = ("norm", "rope_freqs", "rope_factors", "ssm_d")
_NEGATIVE = ("ssm_a",)  # a decay: with positive values the state would grow without bound


class UnknownType(Exception):
    """Random weights of this ggml type are not supported."""


def pieces(name: str, type_: str, size_bytes: int) -> Iterator[memoryview]:
    """The data of one tensor. Raises UnknownType."""
    tile = memoryview(_tile(_content(name, type_), type_)).cast("B")
    block = _block_bytes(type_)
    # A different offset per tensor, so that layers differ; derived from the name, so that it is reproducible.
    at = hash_of(name) % (len(tile) // block) * block
    left = size_bytes
    while left:
        piece = tile[at : at + left]
        yield piece
        left -= len(piece)
        at = 0


def hash_of(text: str) -> int:
    """A hash that is the same in every process, unlike hash()."""
    value = 0
    for byte in text.encode():
        value = (value * 31 + byte) % 2**32
    return value


def _content(name: str, type_: str) -> str:
    if type_ == "F32":
        for content, parts in (("ones", _ONES), ("negative", _NEGATIVE)):
            if any(part in name for part in parts):
                return content
    return "random"


def _block_bytes(type_: str) -> int:
    return next((size for name, _, size in TENSOR_TYPES.values() if name == type_), 1)


@cache
def _tile(content: str, type_: str) -> np.ndarray:
    import numpy as np

    random = np.random.default_rng(20)
    blocks = TILE_BYTES // _block_bytes(type_)
    if type_ in ("F32", "F16", "BF16"):
        return _floats(type_, _VALUES[content](random, blocks))
    tile = random.integers(0, 256, (blocks, _block_bytes(type_)), np.uint8)
    if type_ == "MXFP4":
        tile[:, 0] = _MXFP4_EXPONENT
    elif type_ in _SCALES:
        for half in _SCALES[type_]:
            scales = (half.mean * random.uniform(0.7, 1.3, blocks)).astype("<f2")
            tile[:, half.at : half.at + 2] = scales.view(np.uint8).reshape(-1, 2)
    else:
        raise UnknownType(type_)
    return tile


_VALUES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "random": lambda random, count: random.normal(0, STD, count),
    "ones": lambda random, count: random.uniform(0.95, 1.05, count),
    "negative": lambda random, count: -random.uniform(0.5, 1.5, count),
}


def _floats(type_: str, values: np.ndarray) -> np.ndarray:
    if type_ == "BF16":
        return (values.astype("<f4").view("<u4") >> 16).astype("<u2")
    return values.astype("<f2" if type_ == "F16" else "<f4")
