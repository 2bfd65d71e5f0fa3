"""Writes a tiny GGUF model, which the service offers if no model is configured.

It generates grammatical nonsense: a random walk over a fixed word list. Nothing in it was trained. It can be asked for
JSON, and calls a tool where there are any.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import gguf
    import numpy as np

# Increment with the content below: a file without this version near its beginning is replaced.
_VERSION = "demo-3"
_HEAD_BYTES = 1024

_CONTEXT_TOKENS = 32768
_LAYERS = 40  # a token takes about a millisecond, so that a stream lasts long enough to watch
_WIDTH = 64
_HEADS = 2  # 32 values each: quantized cache types need multiples of 32
_HEADS_KV = 1
_FEED_FORWARD = 32

# Calls of tools as in Hermes 2 Pro: llama.cpp renders some to find their format. It drops a line's end after a tag.
_TEMPLATE = """\
{% if tools %}{{ 'tools:' }}{% for tool in tools %}{{ '\n' + (tool | tojson) }}{% endfor %}{{ '\n' }}{% endif %}
{% for message in messages %}
{{ message['role'] + ': ' + (message['content'] or '') }}
{%- for call in message['tool_calls'] or [] %}
{{ '<tool_call>\n' + (call['function'] | tojson) + '\n</tool_call>' }}
{%- endfor %}
{{ '\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ 'assistant: ' }}{% if tools and messages[-1]['role'] != 'tool' %}{{ '<call>' }}\
{% endif %}{% endif %}"""

# Kind of word -> kinds that may follow. All words of these kinds are equally likely, so an answer ends after one
# sentence in four: </s> competes with the three openings.
_NEXT: dict[str, tuple[str, ...]] = {
    "other": ("opening",),  # the prompt's bytes, <s>
    "blank": ("opening",),  # the prompt's white space
    "call": ("tool call",),  # the end of a prompt with tools
    "tool call": (),  # a grammar decides what follows
    "tool end": ("end",),
    "quote": ("value", "end"),  # a string in JSON is one word
    "value": ("quote",),
    "opening": ("subject",),
    "subject": ("verb",),
    "verb": ("determiner",),
    "determiner": ("adjective", "object"),
    "adjective": ("object",),
    "object": ("stop", "and"),
    "and": ("verb",),
    "stop": ("opening", "end"),
    "end": ("opening",),
}
_WORDS: dict[str, str] = {
    "opening": "The A Every",
    "subject": "proxy model client server scheduler card slot stream",
    "verb": "loads streams answers forgets counts asks drains finds places draws",
    "determiner": "the a this every",
    "adjective": "quiet small warm random idle gentle late",
    "object": "token cache request queue port layer lease signal answer ledger",
    "and": "and",
}
_VALUES = "red green blue left right north south"
_KIND_OF_BYTE = {ord('"'): "quote"} | dict.fromkeys(b"\t\n\r ", "blank")


class _Token(NamedTuple):
    text: str
    kind: str
    type: int  # gguf.TokenType


def write_demo_model(folder: Path) -> Path:
    """The path of `demo.gguf` in `folder`, which is written unless it has the current version.

    Several processes may do this at once: the file is replaced atomically.
    """
    path = folder / "demo.gguf"
    if _is_current(path):
        return path
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=".demo-", dir=folder)
    os.fchmod(descriptor, 0o644)  # mkstemp creates private files, but others may read a model
    os.close(descriptor)
    try:
        _write(temporary)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    return path


def _is_current(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _VERSION.encode() in file.read(_HEAD_BYTES)
    except FileNotFoundError:
        return False


def _write(path: str) -> None:
    import gguf  # takes 170 ms with numpy: only if the file is missing

    writer = gguf.GGUFWriter(path, "llama")
    tokens = _vocabulary()
    _add_header(writer)
    _add_tokenizer(writer, tokens)
    _add_weights(writer, tokens)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_header(writer: gguf.GGUFWriter) -> None:
    import gguf

    writer.add_version(_VERSION)
    writer.add_name("demo")
    writer.add_description("Random words; nothing here was trained.")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(_CONTEXT_TOKENS)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS_KV)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_pooling_type(gguf.PoolingType.MEAN)  # required by /v1/embeddings


def _vocabulary() -> list[_Token]:
    """Control tokens, one token per byte (so that any text can be tokenized), then the words."""
    from gguf import TokenType

    control = [
        _Token("<unk>", "other", TokenType.UNKNOWN),
        _Token("<s>", "other", TokenType.CONTROL),
        _Token("</s>", "end", TokenType.CONTROL),
        _Token("<call>", "call", TokenType.CONTROL),
    ]
    # The tokenizer merges neighbours, so it would need each word's prefixes to find the word. They are left out:
    # words of a prompt become bytes, and only the model generates whole words.
    raw = [_Token(f"<0x{byte:02X}>", _KIND_OF_BYTE.get(byte, "other"), TokenType.BYTE) for byte in range(256)]
    words = [_Token("▁" + word, kind, TokenType.NORMAL) for kind in _WORDS for word in _WORDS[kind].split()]
    space = _Token("▁", "blank", TokenType.NORMAL)  # grammars know it as a space, unlike its three bytes
    words += [_Token(value, "value", TokenType.NORMAL) for value in _VALUES.split()]
    calls = [
        _Token("<tool_call>\n", "tool call", TokenType.NORMAL),
        _Token("</tool_call>", "tool end", TokenType.NORMAL),
    ]
    return [*control, *raw, space, *words, _Token(".", "stop", TokenType.NORMAL), *calls]


def _add_tokenizer(writer: gguf.GGUFWriter, tokens: list[_Token]) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token.text for token in tokens])
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([token.type for token in tokens])
    writer.add_vocab_size(len(tokens))
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    # With a space in front of "assistant:" or "{", llama-server matches neither with the grammar of a schema.
    writer.add_add_space_prefix(False)
    writer.add_chat_template(_TEMPLATE)


def _add_weights(writer: gguf.GGUFWriter, tokens: list[_Token]) -> None:
    import numpy as np

    random = np.random.RandomState(20)
    embedding, output = _grammar(random, tokens)
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output.weight", output)
    writer.add_tensor("output_norm.weight", np.ones(_WIDTH, np.float32))
    for layer in range(_LAYERS):
        _add_layer(writer, random, f"blk.{layer}.")


def _grammar(random: np.random.RandomState, tokens: list[_Token]) -> tuple[np.ndarray, np.ndarray]:
    """Embedding and output rows: a token's kind is one coordinate, which raises the logits of its successors.

    RMS norm makes that coordinate about sqrt(width) = 8, so a weight of 2.5 adds about 20 to the logits. The rest of
    the row is small noise, so that embeddings of different texts differ and answers depend on the prompt.
    """
    import numpy as np

    kinds = list(_NEXT)
    embedding = random.normal(0, 0.05, (len(tokens), _WIDTH)).astype(np.float32)
    output = random.normal(0, 0.05, (len(tokens), _WIDTH)).astype(np.float32)
    for row, token in enumerate(tokens):
        embedding[row, kinds.index(token.kind)] += 1
        predecessors = [kind for kind in kinds if token.kind in _NEXT[kind]]
        output[row, : len(kinds)] = [2.5 * (kind in predecessors) for kind in kinds]
        if token.kind == "blank":  # the grammar of JSON allows it nearly everywhere, without end
            output[row, : len(kinds)] = -2.5
    return embedding, output


def _add_layer(writer: gguf.GGUFWriter, random: np.random.RandomState, prefix: str) -> None:
    import numpy as np

    key_width = _WIDTH // _HEADS * _HEADS_KV
    shapes = {
        "attn_q": (_WIDTH, _WIDTH),
        "attn_k": (key_width, _WIDTH),
        "attn_v": (key_width, _WIDTH),
        "attn_output": (_WIDTH, _WIDTH),
        "ffn_gate": (_FEED_FORWARD, _WIDTH),
        "ffn_up": (_FEED_FORWARD, _WIDTH),
        "ffn_down": (_WIDTH, _FEED_FORWARD),
    }
    for name, shape in shapes.items():
        # Small enough that the layers change the noise but not the grammar.
        writer.add_tensor(f"{prefix}{name}.weight", random.normal(0, 0.02, shape).astype(np.float16))
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"{prefix}{name}.weight", np.ones(_WIDTH, np.float32))
