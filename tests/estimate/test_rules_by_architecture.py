"""What llama.cpp decides by architecture, on small models: figures by arithmetic, and by its own accounting."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from app.entities.gguf import GgufHeader, Scalar, Tensor
from app.entities.launch import ModelOptions, Task
from app.use_cases.estimate.estimate import estimate_memory
from app.use_cases.model_shape.shape import ModelShape, model_shape

MIB = 1024**2
EMBD, FF, VOCAB, HEADS, KV_HEADS, HEAD = 512, 1536, 4096, 8, 2, 64
LAYER = {
    "attn_q": (EMBD, HEADS * HEAD),
    "attn_k": (EMBD, KV_HEADS * HEAD),
    "attn_v": (EMBD, KV_HEADS * HEAD),
    "attn_output": (HEADS * HEAD, EMBD),
    "ffn_gate": (EMBD, FF),
    "ffn_up": (EMBD, FF),
    "ffn_down": (FF, EMBD),
}


def small_model(architecture: str, layers: int, **values: Scalar | tuple[Scalar, ...]) -> ModelShape:
    """A decoder in F16 whose embedding is also the output matrix; `values`: metadata, "__" for a dot."""
    sizes = {"embedding_length": EMBD, "feed_forward_length": FF, "context_length": 8192, "block_count": layers}
    heads = {"head_count": HEADS, "head_count_kv": KV_HEADS, "key_length": HEAD, "value_length": HEAD}
    own = {**sizes, **{f"attention.{key}": value for key, value in heads.items()}}
    own |= {key.replace("__", "."): value for key, value in values.items()}
    tensors_of_a_layer = LAYER if architecture == "command-r" else {**LAYER, "ffn_norm": (EMBD,)}
    names = {f"blk.{il}.{name}.weight": shape for il in range(layers) for name, shape in tensors_of_a_layer.items()}
    tensors = [_tensor(name, shape) for name, shape in {"token_embd.weight": (EMBD, VOCAB), **names}.items()]
    metadata = {"general.architecture": architecture, **{f"{architecture}.{key}": value for key, value in own.items()}}
    return model_shape(GgufHeader(metadata, {"tokenizer.ggml.tokens": VOCAB}, tuple(tensors)))


def _tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    return Tensor(name, shape, "F16", 2 * prod(shape))


def layer_weights() -> int:
    return 2 * (EMBD + sum(map(prod, LAYER.values())))


def test_the_windows_listed_by_granite_and_spark_keep_their_cache_small():
    """llama.cpp, src/models/granite-swa.cpp and spark2-5.cpp: load_arch_hparams; src/llama-kv-cache-iswa.cpp."""
    values = {"attention__sliding_window": 1024, "attention__sliding_window_pattern": (True, True, True, False) * 2}
    options = ModelOptions(ctx_size=4096, parallel=1)
    for architecture in ("granite_swa", "spark2_5"):
        estimate = estimate_memory(small_model(architecture, 8, **values), options)
        # 2 layers of 4096 cells and 6 of 1024 + 512; K and V of 2 heads of 64 values each, 2 bytes a value
        assert estimate.devices[0].context_bytes == (2 * 4096 + 6 * 1536) * 2 * (2 * 64) * 2


def test_an_encoder_of_embeddings_has_no_cache_and_no_second_copy_of_its_embedding():
    """llama.cpp, src/llama-model.cpp: create_memory; src/models/eurobert.cpp: load_arch_tensors has no output."""
    options = ModelOptions(ctx_size=4096, parallel=1, task=Task.EMBEDDING)
    layers = 4 * layer_weights()
    eurobert = estimate_memory(small_model("eurobert", 4), options).devices[0]
    assert (eurobert.weights_bytes, eurobert.context_bytes) == (layers, 0)
    assert estimate_memory(small_model("gemma-embedding2", 4), options).devices[0].context_bytes == 0


def test_the_tokens_of_a_graph_are_limited_by_the_context_as_requested():
    """llama.cpp, src/llama-context.cpp: llama_context takes the minimum, then rounds the context up."""
    options = ModelOptions(ctx_size=1121, parallel=7, kv_unified=False, ubatch_size=2027)
    tokens = 7 * 161  # 1121, rounded up to a multiple of the slots; the cache has 7 streams of 256 cells
    found = estimate_memory(small_model("llama", 2), options).devices[0]
    assert found.context_bytes == 2 * 7 * 256 * 2 * (KV_HEADS * HEAD) * 2
    assert found.compute_bytes == tokens * 4 * (3 * FF + 4 * EMBD) + 256 * tokens * 2
    # without causal attention the rounded context is the limit: 8 * 256 tokens
    encoder = small_model("bert", 2, attention__causal=False)
    options = ModelOptions(ctx_size=1900, parallel=8, ubatch_size=4096, batch_size=4096, task=Task.EMBEDDING)
    compute = estimate_memory(encoder, options).devices[0].compute_bytes
    assert compute == 2048 * 4 * (3 * FF + 2 * EMBD) + 2048 * 2048 * 2


def test_a_last_gpu_with_only_the_output_holds_the_logits_of_the_slots():
    """llama.cpp, src/llama-graph.cpp: build_inp_out_ids. ggml-backend.cpp keeps four copies of what enters a stage."""
    options = ModelOptions(ctx_size=4096, parallel=2, devices=2, tensor_split=(8, 1))
    pipelined = estimate_memory(small_model("llama", 8), options).devices[1]
    assert pipelined.context_bytes == 0
    assert pipelined.compute_bytes == 2 * 4 * (VOCAB + (4 + 1) * EMBD)
    options = replace(options, n_gpu_layers=8, tensor_split=(7, 1))
    with_layer_in_ram = estimate_memory(small_model("llama", 8), options).devices[1]
    assert with_layer_in_ram.compute_bytes == 2 * 4 * (VOCAB + EMBD)


def test_a_first_gpu_without_layers_computes_with_the_weights_in_ram():
    """ggml-backend.cpp, ggml_backend_sched_backend_id_from_cur: the first backend that offloads such operations."""
    options = ModelOptions(ctx_size=4096, parallel=1, devices=2, tensor_split=(0, 1), n_gpu_layers=5)
    first, second = estimate_memory(small_model("llama", 8), options).devices
    assert first.weights_bytes == first.context_bytes == 0
    # 512 tokens: a layer's network, embeddings with the gaps between them, image slots of 64 bits, and the mask
    assert first.compute_bytes == 512 * 4 * (3 * FF + 6 * EMBD) + 8 * 512 + 4096 * 512 * 2
    assert second.compute_bytes < first.compute_bytes
    nothing_in_ram = estimate_memory(small_model("llama", 8), replace(options, n_gpu_layers=99)).devices[0]
    assert nothing_in_ram.compute_bytes == 0


def test_looped_layers_have_caches_of_their_own_and_share_weights():
    """llama.cpp, src/models/nanbeige.cpp: load_arch_hparams multiplies the layers, load_arch_tensors shares blocks."""
    options = ModelOptions(ctx_size=4096, parallel=1, devices=2, tensor_split=(1, 1))
    first, second = estimate_memory(small_model("nanbeige", 4, num_loops=3), options).devices
    # 12 layers and the output: 7 layers on the first GPU with all weights, 5 on the second with the output matrix
    assert first.weights_bytes == 4 * layer_weights()
    assert second.weights_bytes == 2 * EMBD * VOCAB
    layer = 4096 * 2 * (KV_HEADS * HEAD) * 2
    assert (first.context_bytes, second.context_bytes) == (7 * layer, 5 * layer)
    # Q, K and V of 5 layers go to the second GPU, their attention comes back, four times each: a pipeline's stages.
    embedding, masks = 512 * 4 * EMBD, 4 * (4096 * 512 * 2)
    queries, pairs = 512 * 4 * HEADS * HEAD, 512 * 4 * 2 * KV_HEADS * HEAD
    # Before each further pass the residual is normalized beside the output: 4 copies there, 8 of two tensors back.
    usual = 512 * 4 * (3 * FF + 4 * EMBD) + 12 * embedding
    assert first.compute_bytes == usual + masks + 4 * 5 * queries + 2 * 8 * embedding
    assert second.compute_bytes == queries + masks + 4 * 5 * (queries + pairs) + (1 + 2 * 4) * embedding


def test_a_model_on_one_of_several_gpus_is_pipelined_too():
    """llama.cpp, src/llama-context.cpp: pipeline_parallel asks for the devices of the model, not for their layers."""
    options = ModelOptions(ctx_size=4096, parallel=1, devices=2, tensor_split=(1, 0))
    first, second = estimate_memory(small_model("llama", 4), options).devices
    mask, embedding = 4096 * 512 * 2, 512 * 4 * EMBD
    assert first.compute_bytes == 512 * 4 * (3 * FF + 4 * EMBD) + 4 * mask + 12 * embedding
    assert second.compute_bytes == 0


def test_granite_switch_has_a_layer_more_whose_cache_has_one_head():
    """llama.cpp, src/models/granite-switch.cpp: load_arch_hparams adds router_layer to the block count."""
    options = ModelOptions(ctx_size=4096, parallel=1, devices=2, tensor_split=(4, 2))
    first, second = estimate_memory(small_model("graniteswitch", 4), options).devices
    # 4 layers, the router's and the output: a third of 6 is on the second GPU
    assert first.context_bytes == 4 * 4096 * 2 * (KV_HEADS * HEAD) * 2
    assert (second.weights_bytes, second.context_bytes) == (2 * EMBD * VOCAB, 4096 * 2 * (1 * HEAD) * 2)


def test_only_what_is_not_f16_in_the_cache_is_converted():
    """llama.cpp, ggml-cuda/fattn.cu: ggml_cuda_flash_attn_ext_get_alloc_size, of K and of V by itself."""
    options = ModelOptions(ctx_size=32768, parallel=1, ubatch_size=128)
    values, mask = 32768 * KV_HEADS * HEAD, 32768 * 128 * 2
    residuals = 5 * 128 * 4 * EMBD  # heads and embeddings have one width here
    for k, v, converted in (("bf16", "f16", values), ("f16", "bf16", values), ("q8_0", "q8_0", 2 * values)):
        found = estimate_memory(small_model("llama", 4), replace(options, cache_type_k=k, cache_type_v=v)).devices[0]
        assert found.compute_bytes == 2 * converted + residuals + mask


def test_a_parallel_network_is_held_beside_a_converted_cache():
    """llama.cpp, src/models/command-r.cpp: the network's result is computed from what attention reads."""
    options = ModelOptions(ctx_size=32768, parallel=1, ubatch_size=128, cache_type_k="q8_0", cache_type_v="q8_0")
    found = estimate_memory(small_model("command-r", 4), options).devices[0]
    converted, mask = 2 * 32768 * 2 * KV_HEADS * HEAD, 32768 * 128 * 2
    assert found.compute_bytes == converted + 128 * 4 * (3 * FF + 5 * EMBD) + mask


def test_a_cache_in_ram_is_copied_and_converted_for_the_first_gpu():
    """ggml-backend.cpp, ggml_backend_sched_split_graph copies one layer's cache; fattn.cu converts the copy."""
    options = ModelOptions(ctx_size=32768, parallel=1, ubatch_size=128, cache_type_k="bf16", cache_type_v="bf16")
    found = estimate_memory(small_model("llama", 4), replace(options, n_gpu_layers=0)).devices[0]
    layer, mask = 2 * 32768 * 2 * KV_HEADS * HEAD, 32768 * 128 * 2
    assert found.compute_bytes == layer + layer + 5 * 128 * 4 * EMBD + 8 * 128 + mask


def test_llama_embed_has_a_cache_and_an_output_matrix_that_its_graph_does_not_use():
    """llama.cpp, src/models/llama.cpp: graph<true> attends to the batch and ends with the embeddings."""
    options = ModelOptions(ctx_size=8192, parallel=1, ubatch_size=2048, task=Task.EMBEDDING)
    found = estimate_memory(small_model("llama-embed", 4, attention__causal=False), options).devices[0]
    assert found.context_bytes == 4 * 8192 * 2 * (KV_HEADS * HEAD) * 2
    assert found.compute_bytes == 2048 * 4 * (3 * FF + 4 * EMBD) + 2048 * 2048 * 2


def test_a_quantized_v_cache_keeps_flash_attention():
    """llama.cpp, src/llama-context.cpp: "quantized V cache was requested, but this requires Flash Attention"."""
    values = {"attention__head_count_kv": (0, 2, 0, 2, 0, 2), "shortconv__l_cache": 3}
    options = ModelOptions(ctx_size=32768, parallel=1, n_gpu_layers=3, cache_type_k="q8_0", cache_type_v="q8_0")
    found = estimate_memory(small_model("lfm2", 6, **values), options).devices[0]
    scores = 512 * 4 * HEADS * 32768  # half a gigabyte without
    assert found.compute_bytes < scores / 4
