"""Which headers are a model's, as far as they tell."""

from __future__ import annotations

from typing import Any

import pytest

from app.entities.gguf import GgufHeader
from app.use_cases.model_shape.servable import why_not_servable

GOOD = {"general.architecture": "llama", "llama.block_count": 32}
NAN = float("nan")


def said_of(metadata: dict[str, Any]) -> str:
    return why_not_servable(GgufHeader(metadata, {}, ()))


@pytest.mark.parametrize(
    "metadata",
    [
        GOOD,
        GOOD | {"general.type": "model"},
        GOOD | {"llama.attention.clamp_kqv": float("inf")},
        {"general.architecture": "newer-than-us", "newer-than-us.block_count": 1},
    ],
)
def test_a_model_is_servable(metadata: dict[str, Any]):
    assert said_of(metadata) == ""


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (
            {"general.architecture": "clip", "general.type": "mmproj"},
            "is a projector, which lets another model see or hear: name it as that model's `mmproj`",
        ),
        (GOOD | {"general.type": "adapter"}, "is an adapter, not a model"),
        ({"general.type": "imatrix"}, "is an importance matrix, not a model"),
        (GOOD | {"general.type": "vocab"}, "is no model: its general.type is 'vocab'"),
        (GOOD | {"general.type": 7}, "is no model: its general.type is '7'"),
        ({}, "does not say its architecture (general.architecture)"),
        (GOOD | {"llama.rope.freq_base": NAN}, "is damaged: llama.rope.freq_base is not a number (NaN)"),
        (GOOD | {"a": (1.0, NAN)}, "is damaged: a is not a number (NaN)"),
        (
            {"general.architecture": "flux", "llama.block_count": 2},
            "is no language model: it does not say how many layers it has (flux.block_count)",
        ),
        *(
            (GOOD | {"llama.block_count": layers}, f"is damaged: it has {shown} for its number of layers ({key})")
            for key in ("llama.block_count",)
            for layers, shown in [(0, "0"), (-1, "-1"), (2**32 - 1, "4294967295"), (True, "True"), (32.0, "32.0"),
                                  ("32", "'32'"), ((32, 32), "2 values")]
        ),
    ],
)  # fmt: skip
def test_what_is_no_model_is_said_in_a_line(metadata: dict[str, Any], said: str):
    assert said_of(metadata) == said
