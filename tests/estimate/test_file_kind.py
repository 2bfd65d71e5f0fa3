"""What a GGUF file is for, by its header."""

from __future__ import annotations

from typing import Any

import pytest

from app.entities.gguf import FileKind, GgufHeader, Tensor
from app.use_cases.model_shape.file_kind import file_kind
from app.use_cases.model_shape.servable import why_not_servable
from bench.vram_truth import header, pairs_with_headers

OUTSIDE = ("token_embd.weight", "output_norm.weight", "output.weight")


def a_header(metadata: dict[str, Any], *tensors: str) -> GgufHeader:
    return GgufHeader(metadata, {}, tuple(Tensor(name, (8,), "F32", 32) for name in tensors))


def with_layers(blocks: int, mtp: int, present: range, architecture: str = "qwen35") -> GgufHeader:
    """A model of so many blocks, the last of them for multi-token prediction, of which these are in the file."""
    metadata = {
        "general.architecture": architecture,
        "general.type": "model",
        f"{architecture}.block_count": blocks,
        f"{architecture}.nextn_predict_layers": mtp,
    }
    return a_header(metadata, *OUTSIDE, *(f"blk.{block}.attn_norm.weight" for block in present))


@pytest.mark.parametrize(
    ("metadata", "kind"),
    [
        ({"general.architecture": "llama"}, FileKind.MODEL),
        ({"general.architecture": "llama", "general.type": "model"}, FileKind.MODEL),
        ({"general.architecture": "llama", "general.type": "newer"}, FileKind.MODEL),
        ({}, FileKind.MODEL),
        ({"general.architecture": "gemma4-assistant"}, FileKind.DRAFT_HEAD),
        ({"general.architecture": "muse-glimmer-assistant"}, FileKind.DRAFT_HEAD),
        ({"general.architecture": "eagle3", "general.type": "model"}, FileKind.DRAFT_HEAD),
        ({"general.architecture": "dflash"}, FileKind.DRAFT_HEAD),
        ({"general.architecture": "clip"}, FileKind.PROJECTOR),
        ({"general.architecture": "clip", "general.type": "model"}, FileKind.PROJECTOR),
        ({"general.architecture": "new", "general.type": "mmproj"}, FileKind.PROJECTOR),
        ({"general.architecture": "llama", "general.type": "adapter"}, FileKind.ADAPTER),
        ({"general.type": "imatrix"}, FileKind.IMPORTANCE_MATRIX),
        ({"general.architecture": "controlvector"}, FileKind.CONTROL_VECTOR),
    ],
)
def test_the_header_says_what_a_file_is_for(metadata: dict[str, Any], kind: FileKind):
    assert file_kind(a_header(metadata)) is kind


@pytest.mark.parametrize(
    ("of_file", "kind"),
    [
        (with_layers(65, 1, range(64, 65)), FileKind.DRAFT_HEAD),  # as converted with --mtp
        (with_layers(65, 1, range(65)), FileKind.MODEL),  # with its own MTP layer
        (with_layers(64, 0, range(64)), FileKind.MODEL),
        (with_layers(65, 1, range(64)), FileKind.MODEL),  # --no-mtp with the key left in
        (with_layers(1, 1, range(1)), FileKind.DRAFT_HEAD),  # numbered from 0
        (with_layers(48, 3, range(45, 48), "step35"), FileKind.DRAFT_HEAD),
        (with_layers(65, 1, range(0)), FileKind.MODEL),  # the first part of a split model may have no tensors
    ],
)
def test_layers_for_multi_token_prediction_alone_are_a_draft_head(of_file: GgufHeader, kind: FileKind):
    assert file_kind(of_file) is kind


def test_real_files_are_what_they_are_called():
    """Among them models with MTP layers of their own: GLM 4.5, Qwen3.5, DeepSeek V3.2."""
    heads = dict.fromkeys(("assistant", "dflash", "eagle3", "mtp"), FileKind.DRAFT_HEAD)
    kinds = {"mmproj": FileKind.PROJECTOR, "lora": FileKind.ADAPTER, **heads}
    for name, quantization in pairs_with_headers():
        assert file_kind(header(name, quantization)) is kinds.get(name.partition("-")[0], FileKind.MODEL), name


def test_a_draft_head_is_not_servable_and_the_reason_says_where_it_belongs():
    assert why_not_servable(with_layers(65, 1, range(64, 65))) == (
        "is a draft head, not a model: it only predicts tokens for the model it was made for"
    )
    assert why_not_servable(with_layers(65, 1, range(65))) == ""
