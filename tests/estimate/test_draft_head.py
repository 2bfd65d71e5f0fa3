"""Draft heads: what the engine uses each for, and for which models, by the headers of real ones."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.entities.gguf import GgufHeader
from app.use_cases.model_shape.draft_head import head_fits, head_type
from bench.vram_truth import header

EAGLE, DFLASH, ASSISTANT, MTP = "eagle3-llama-3.1-8b", "dflash-qwen3-8b", "assistant-gemma-4-26b-a4b", "mtp-qwen3.5-27b"
MODELS = {EAGLE: "llama-3.1-8b", DFLASH: "qwen3-8b", ASSISTANT: "gemma-4-26b-a4b", MTP: "qwen3.5-27b"}


def of(name: str) -> GgufHeader:
    return header(name, "Q4_K_M")


def changed(name: str, **values: object) -> GgufHeader:
    known = of(name)
    return replace(
        known, metadata={**known.metadata, **{f"{known.architecture}.{key}": v for key, v in values.items()}}
    )


def test_the_type_follows_from_the_header():
    types = {EAGLE: "draft-eagle3", DFLASH: "draft-dflash", ASSISTANT: "draft-mtp", MTP: "draft-mtp"}
    assert {name: head_type(of(name)) for name in MODELS} == types
    markov = replace(of(DFLASH).tensors[0], name="markov_w1.weight")
    assert head_type(replace(of(DFLASH), tensors=(*of(DFLASH).tensors, markov))) == "draft-dspark"
    unknown = replace(of(ASSISTANT), metadata={"general.architecture": "other-assistant"})
    assert head_type(unknown) == ""


def test_a_head_fits_the_model_that_it_was_made_for():
    fitting = {(head, model) for head in MODELS for model in MODELS.values() if head_fits(of(head), of(model))}
    assert fitting == set(MODELS.items())


@pytest.mark.parametrize(
    ("head", "model"),
    [
        (changed(EAGLE, target_layers=(2, 16, 32)), of("llama-3.1-8b")),  # the engine aborts: it has 32 layers
        (changed(EAGLE, target_hidden_size=5120), of("llama-3.1-8b")),
        (changed(ASSISTANT, embedding_length_out=1536), of("gemma-4-26b-a4b")),
        (of(MTP), of("qwen3.5-9b")),
        (replace(of(EAGLE), lengths={"tokenizer.ggml.tokens": 32000}), of("llama-3.1-8b")),
        # its graph does not hand out what the head reads: the engine aborts at the first request
        (changed(EAGLE, target_hidden_size=3072), of("gemma-7b")),
    ],
)
def test_a_head_of_another_model_is_not_used(head: GgufHeader, model: GgufHeader):
    assert not head_fits(head, model)
