"""Writes the model on which a new engine is tried: tiny, but with what real ones make an engine run.

Kernels are chosen by a weight's type and size. A build with AMX that died on a Q4_K_M file answered from an F32 one: so
the weights have the types of Q4_K_M, and Q8_0 and Q4_0 beside them, with rows of 256 values or more and multiples of 64
rows, as the repacked and the AMX layouts need them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gguf
    import numpy as np

_WIDTH, _FEED_FORWARD, _HEADS, _HEADS_KV = 256, 512, 4, 2
_KEYS = _WIDTH // _HEADS * _HEADS_KV
_TOKENS = 320
# Per layer: rows, values per row, and the type of each matrix. Together every type that is tried.
_MATRICES = {"attn_q": (_WIDTH, _WIDTH), "attn_k": (_KEYS, _WIDTH), "attn_v": (_KEYS, _WIDTH)} | {
    "attn_output": (_WIDTH, _WIDTH),
    "ffn_gate": (_FEED_FORWARD, _WIDTH),
    "ffn_up": (_FEED_FORWARD, _WIDTH),
    "ffn_down": (_WIDTH, _FEED_FORWARD),
}
_Q4_K_M = dict.fromkeys(_MATRICES, "Q4_K") | {"attn_v": "Q6_K", "ffn_down": "Q6_K"}
_LAYERS = (_Q4_K_M, dict.fromkeys(_MATRICES, "Q8_0"), dict.fromkeys(_MATRICES, "Q4_0"))
# Bytes of a block of 256 weights, and where its 16-bit scales are with their values (ggml-common.h, b11549): weights
# of about 0.02, whatever the other bits are.
_BLOCKS = {"Q4_K": (144, {0: 8e-5, 2: 6e-4}), "Q6_K": (210, {208: 1.5e-5})}


def write_trial_model(path: Path) -> Path:
    """2 MB of random weights; one token per byte."""
    import gguf
    import numpy as np

    writer, random = gguf.GGUFWriter(path, "llama"), np.random.RandomState(5)
    _add_header(writer)
    _add_matrix(writer, random, "token_embd", (_TOKENS, _WIDTH), "Q4_K")
    _add_matrix(writer, random, "output", (_TOKENS, _WIDTH), "Q6_K")
    writer.add_tensor("output_norm.weight", np.ones(_WIDTH, np.float32))
    for number, types in enumerate(_LAYERS):
        for name, shape in _MATRICES.items():
            _add_matrix(writer, random, f"blk.{number}.{name}", shape, types[name])
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{number}.{name}.weight", np.ones(_WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_header(writer: gguf.GGUFWriter) -> None:
    from gguf import TokenType

    writer.add_context_length(2048)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(len(_LAYERS))
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS_KV)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    unused = [f"<unused{number}>" for number in range(_TOKENS - 259)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *unused])
    writer.add_token_scores([0.0] * _TOKENS)
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256]
    writer.add_token_types([*kinds, *[TokenType.UNUSED] * len(unused)])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _add_matrix(
    writer: gguf.GGUFWriter, random: np.random.RandomState, name: str, shape: tuple[int, int], kind: str
) -> None:
    import gguf
    import numpy as np

    type_ = gguf.GGMLQuantizationType[kind]
    if kind in _BLOCKS:
        data = _random_blocks(random, shape, kind)
    else:
        data = gguf.quants.quantize(random.normal(0, 0.02, shape).astype(np.float32), type_)
    writer.add_tensor(f"{name}.weight", data, raw_dtype=type_)


def _random_blocks(random: np.random.RandomState, shape: tuple[int, int], kind: str) -> np.ndarray:
    """gguf reads these types, and does not write them."""
    import numpy as np

    size, scales = _BLOCKS[kind]
    blocks = random.randint(0, 256, (shape[0], shape[1] // 256, size), np.uint8)
    for at, value in scales.items():
        blocks[..., at : at + 2] = np.frombuffer(np.float16(value).tobytes(), np.uint8)
    return blocks.reshape(shape[0], -1)
