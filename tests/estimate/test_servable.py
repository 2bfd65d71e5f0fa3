"""Which headers belong to a servable model, and what is reported about the others."""

from __future__ import annotations

from typing import Any

import pytest

from app.entities.gguf import GgufHeader, Tensor
from app.use_cases.model_shape.servable import why_not_servable

GOOD = {"general.architecture": "llama", "llama.block_count": 32}
NAN = float("nan")


def problem_of(metadata: dict[str, Any]) -> str:
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
    assert problem_of(metadata) == ""


@pytest.mark.parametrize("name", ["v.blk.0.attn_q.weight", "mm.mlp.0.weight", "a.conv1d.1.weight"])
def test_a_model_with_its_encoder_in_the_same_file_is_told_by_its_tensors(name: str):
    """llama.cpp#27349: "wrong number of tensors; expected 2131, got 720", of an Ollama blob."""
    language = Tensor("blk.0.attn_v.weight", (8,), "F32", 32)
    assert why_not_servable(GgufHeader(GOOD, {}, (language,))) == ""
    problem = why_not_servable(GgufHeader(GOOD, {}, (language, Tensor(name, (8,), "F32", 32))))
    assert problem.startswith("also contains an encoder for images or audio")


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        (
            {"general.architecture": "clip", "general.type": "mmproj"},
            "is a multimodal projector, not a model: set it as the `mmproj` of its model",
        ),
        (GOOD | {"general.type": "adapter"}, "is an adapter, not a model"),
        ({"general.type": "imatrix"}, "is an importance matrix, not a model"),
        (GOOD | {"general.type": "vocab"}, "is not a model: its general.type is 'vocab'"),
        (GOOD | {"general.type": 7}, "is not a model: its general.type is '7'"),
        ({}, "has no architecture (general.architecture)"),
        (GOOD | {"llama.rope.freq_base": NAN}, "is damaged: llama.rope.freq_base is not a number (NaN)"),
        (GOOD | {"a": (1.0, NAN)}, "is damaged: a is not a number (NaN)"),
        (
            {"general.architecture": "flux", "llama.block_count": 2},
            "is not a language model: it has no layer count (flux.block_count)",
        ),
        *(
            (GOOD | {"llama.block_count": layers}, f"is damaged: its layer count ({key}) is {shown}")
            for key in ("llama.block_count",)
            for layers, shown in [(0, "0"), (-1, "-1"), (2**32 - 1, "4294967295"), (True, "True"), (32.0, "32.0"),
                                  ("32", "'32'"), ((32, 32), "2 values")]
        ),
    ],
)  # fmt: skip
def test_a_file_that_is_not_a_model_is_reported_in_one_line(metadata: dict[str, Any], problem: str):
    assert problem_of(metadata) == problem
