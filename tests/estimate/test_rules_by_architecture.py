"""What llama.cpp decides by architecture, on small models: figures by arithmetic, and by its own accounting."""

from __future__ import annotations

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
    names = {f"blk.{il}.{name}.weight": shape for il in range(layers) for name, shape in LAYER.items()}
    tensors = [_tensor(name, shape) for name, shape in {"token_embd.weight": (EMBD, VOCAB), **names}.items()]
    metadata = {"general.architecture": architecture, **{f"{architecture}.{key}": value for key, value in own.items()}}
    return model_shape(GgufHeader(metadata, {"tokenizer.ggml.tokens": VOCAB}, tuple(tensors)))


def _tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    return Tensor(name, shape, "F16", 2 * prod(shape))


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
    layers = 4 * 2 * sum(map(prod, LAYER.values()))
    eurobert = estimate_memory(small_model("eurobert", 4), options).devices[0]
    assert (eurobert.weights_bytes, eurobert.context_bytes) == (layers, 0)
    assert estimate_memory(small_model("gemma-embedding2", 4), options).devices[0].context_bytes == 0
