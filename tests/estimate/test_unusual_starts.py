"""Starts with weights or the cache in RAM, of files whose metadata and tensors disagree: an estimate never raises."""

from dataclasses import replace
from typing import Any

import pytest

from app.entities.gguf import GgufHeader, Tensor
from app.entities.launch import ModelOptions, Task
from app.entities.memory import Estimate
from app.use_cases.estimate.estimate import estimate_memory
from app.use_cases.model_shape.shape import model_shape
from bench.estimate import shape_of
from bench.vram_truth import header

PARTIAL = ModelOptions(ctx_size=8192, n_gpu_layers=10)


def with_metadata(model: str, quant: str = "Q4_K_M", **values: Any) -> GgufHeader:
    known = header(model, quant)
    changed = {f"{known.architecture}.{key}": value for key, value in values.items()}
    return replace(known, metadata={**known.metadata, **changed})


def found(given: GgufHeader, options: ModelOptions) -> Estimate:
    estimate = estimate_memory(model_shape(given), options)
    assert all(each.compute_bytes >= 0 and each.margin_bytes >= 0 for each in estimate.devices)
    return estimate


@pytest.mark.parametrize("options", [PARTIAL, ModelOptions(ctx_size=8192, kv_offload=False)])
@pytest.mark.parametrize("model", ["starcoder-15b", "bloom-7b1", "jais-13b"])
def test_v_alone_may_be_quantized_in_a_model_without_rope(model: str, options: ModelOptions):
    """Its queries are a view of the fused product, which is kept for them."""
    shape = shape_of(model, "Q4_K_M")
    plain = estimate_memory(shape, options).devices[0]
    quantized = estimate_memory(shape, replace(options, cache_type_v="q8_0")).devices[0]
    assert quantized.compute_bytes > 0 and quantized.context_bytes <= plain.context_bytes


def test_experts_that_the_metadata_does_not_count_are_no_error():
    assert found(with_metadata("glm-4.5-air", expert_count=0), PARTIAL).devices[0].compute_bytes > 0


@pytest.mark.parametrize("missing", ["ffn_up_exps", "ffn_up_shexp"])
def test_experts_without_one_of_their_matrices_are_no_error(missing: str):
    whole = header("glm-4.5-air", "Q4_K_M")
    tensors = tuple(tensor for tensor in whole.tensors if missing not in tensor.name)
    assert found(replace(whole, tensors=tensors), PARTIAL).devices[0].compute_bytes > 0


def test_tensors_of_layers_that_the_metadata_does_not_count_are_no_error():
    in_ram = ModelOptions(ctx_size=8192, overrides=(("ffn_.*", "CPU"),))
    assert found(with_metadata("exaone-4-32b", block_count=3), in_ram).devices[0].compute_bytes > 0


def test_an_encoder_with_nothing_but_drafting_layers_is_no_error():
    options = ModelOptions(ctx_size=512, task=Task.EMBEDDING, devices=2, n_gpu_layers=10)
    assert len(found(with_metadata("nomic-embed-v1.5", "F16", nextn_predict_layers=99), options).devices) == 2


def test_an_expert_tensor_that_does_not_belong_there_takes_no_negative_bytes():
    whole = header("gemma-4-26b-a4b", "Q4_K_M")
    odd = Tensor("blk.1.ffn_up_exps.weight", (2**30, 1024), "F16", 2**41)
    given = replace(whole, tensors=(*whole.tensors, odd))
    found(given, ModelOptions(ctx_size=256, ubatch_size=1, parallel=1, overrides=(("ffn_.*", "CUDA15"),)))
