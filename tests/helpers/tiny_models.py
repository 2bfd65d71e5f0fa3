"""Writes tiny files that the engine loads: models that embed, rerank or generate, and a LoRA adapter."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

WIDTH, HEADS, FEED_FORWARD = 64, 2, 64
CONTEXT_TOKENS = 8192
TENSORS = {
    "attn_q": (WIDTH, WIDTH),
    "attn_k": (WIDTH // HEADS, WIDTH),
    "attn_v": (WIDTH // HEADS, WIDTH),
    "attn_output": (WIDTH, WIDTH),
    "ffn_gate": (FEED_FORWARD, WIDTH),
    "ffn_up": (FEED_FORWARD, WIDTH),
    "ffn_down": (WIDTH, FEED_FORWARD),
}


def write_embedder(path: Path) -> Path:
    """A model of Qwen3-Embedding's kind: it pools by the last token. One token per byte."""
    return _write(path, gguf.PoolingType.LAST)


def write_reranker(path: Path) -> Path:
    """A model of Qwen3-Reranker's kind, with a head that scores."""
    return _write(path, gguf.PoolingType.RANK)


def write_generator(path: Path) -> Path:
    """A model whose answers depend on the whole prompt. One token per byte."""
    return _write(path, None)


def write_adapter(path: Path, strength: float = 0.0) -> Path:
    """A LoRA adapter for the demo model: it adds `strength` to all that the first layer's attention puts out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 4.0)
    for half, shape in (("a", (4, WIDTH)), ("b", (WIDTH, 4))):
        writer.add_tensor(f"blk.0.attn_output.weight.lora_{half}", np.full(shape, strength, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write(path: Path, pooling: gguf.PoolingType | None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer, random = gguf.GGUFWriter(path, "qwen3"), np.random.RandomState(7)
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(1)
    writer.add_key_length(WIDTH // HEADS)
    writer.add_value_length(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    if pooling is not None:
        writer.add_pooling_type(pooling)
    _add_tokenizer(writer)
    for name, shape in TENSORS.items():
        writer.add_tensor(f"blk.0.{name}.weight", random.normal(0, 0.2, shape).astype(np.float32))
    for name, width in (("attn_norm", WIDTH), ("ffn_norm", WIDTH), ("attn_q_norm", 32), ("attn_k_norm", 32)):
        writer.add_tensor(f"blk.0.{name}.weight", np.ones(width, np.float32))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    writer.add_tensor("token_embd.weight", random.normal(0, 0.2, (259, WIDTH)).astype(np.float32))
    if pooling is gguf.PoolingType.RANK:
        writer.add_tensor("cls.output.weight", random.normal(0, 0.2, (1, WIDTH)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2, *[gguf.TokenType.BYTE] * 256]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(types)
    writer.add_vocab_size(len(tokens))
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
