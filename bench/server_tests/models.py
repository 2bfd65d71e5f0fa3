"""Tiny models that replace those llama.cpp's tests download: the demo model, a LoRA adapter for it, and a BERT."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import gguf
from gguf.scripts.gguf_new_metadata import MetadataDetails, copy_with_new_metadata

from workers.catalog.demo_model import write_demo_model

if TYPE_CHECKING:
    import numpy as np

WIDTH, LAYERS, HEADS, CONTEXT_TOKENS = 64, 2, 2, 512
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = [chr(code) for code in range(33, 127)]
# Token ids of bytes that occur in no text.
END = {"eos": 3 + 4}
FIM = {"fim_pre": 3 + 0, "fim_suf": 3 + 1, "fim_mid": 3 + 2}


def write_models(folder: Path) -> None:
    """Write all models into `folder` unless they exist."""
    if (folder / "bert.gguf").exists():
        return
    demo = gguf.GGUFReader(write_demo_model(folder))
    _copy(demo, folder / "tiny.gguf", END)
    _copy(demo, folder / "infill.gguf", END | FIM)
    _write_lora(folder / "lora.gguf")
    _write_bert(folder / "bert.gguf")


def model_for(repo: str, file: str, folder: Path) -> Path:
    """The local model that replaces this file of the hub."""
    if "bert" in file or "rerank" in file:
        return folder / "bert.gguf"
    return folder / ("infill.gguf" if "infill" in repo else "tiny.gguf")


def fetched(url: str, folder: Path) -> Path:
    """The local file that replaces the one at this URL."""
    return folder / ("lora.gguf" if "shakespeare" in url else "tiny.gguf")


def _copy(model: gguf.GGUFReader, path: Path, tokens: dict[str, int]) -> None:
    """Copy the model with a token for a space, without chat template and end token, like the tests' stories models."""
    texts: list[str] = model.fields["tokenizer.ggml.tokens"].contents()
    kinds: list[int] = model.fields["tokenizer.ggml.token_type"].contents()
    space = texts.index("<0xFF>")
    texts[space], kinds[space] = "▁", gguf.TokenType.NORMAL
    end = texts.index("</s>")  # it would be generated soon, and llama.cpp recognizes it by its text
    texts[end], kinds[end] = "▁end", gguf.TokenType.NORMAL
    array, numbers = gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT32
    new = {
        "tokenizer.ggml.tokens": MetadataDetails(array, texts, sub_type=gguf.GGUFValueType.STRING),
        "tokenizer.ggml.token_type": MetadataDetails(array, kinds, sub_type=gguf.GGUFValueType.INT32),
        **{f"tokenizer.ggml.{name}_token_id": MetadataDetails(numbers, number) for name, number in tokens.items()},
    }
    copy_with_new_metadata(model, gguf.GGUFWriter(path, "llama"), new, ["tokenizer.chat_template"])


def _write_lora(path: Path) -> None:
    """Write an adapter that changes the first layer of the demo model."""
    import numpy as np

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 1.0)
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.full((1, WIDTH), 0.01, np.float32))
    writer.add_tensor("blk.0.attn_q.weight.lora_b", np.full((WIDTH, 1), 0.01, np.float32))
    _write(writer)


def _write(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_bert(path: Path) -> None:
    """Write a BERT with random weights and single letters as tokens."""
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.CLS)
    _add_letters(writer)
    for name, values in _weights():
        writer.add_tensor(name, values)
    _write(writer)


def _add_letters(writer: gguf.GGUFWriter) -> None:
    """Add each letter as a token at the start of a word and one within a word."""
    tokens = [*SPECIAL, *("▁" + letter for letter in LETTERS), *LETTERS]
    kinds = [gguf.TokenType.CONTROL] * len(SPECIAL) + [gguf.TokenType.NORMAL] * 2 * len(LETTERS)
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    writer.add_token_type_count(2)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(3)
    writer.add_sep_token_id(3)
    writer.add_mask_token_id(4)


def _weights() -> Iterator[tuple[str, np.ndarray]]:
    import numpy as np

    random = np.random.RandomState(20)
    vocabulary = len(SPECIAL) + 2 * len(LETTERS)
    for name, rows in (("token_embd", vocabulary), ("position_embd", CONTEXT_TOKENS), ("token_types", 2)):
        yield f"{name}.weight", random.normal(0, 0.3, (rows, WIDTH)).astype(np.float32)
    for name in (
        "token_embd_norm",
        *(f"blk.{n}.{norm}" for n in range(LAYERS) for norm in ("attn_output_norm", "layer_output_norm")),
    ):
        yield f"{name}.weight", np.ones(WIDTH, np.float32)
        yield f"{name}.bias", np.zeros(WIDTH, np.float32)
    parts = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down")
    for name, rows in (
        *((f"blk.{n}.{part}", WIDTH) for n in range(LAYERS) for part in parts),
        ("cls", WIDTH),
        ("cls.output", 1),
    ):
        yield f"{name}.weight", random.normal(0, 0.2, (rows, WIDTH)).astype(np.float32)
        yield f"{name}.bias", np.zeros(rows, np.float32)
