"""Draft heads: which --spec-type of the engine a head is for, and whether it was made for a model, by both headers.

Source: llama.cpp b11549, common/speculative.cpp (common_speculative_types_from_gguf, and the constructors, which abort
where a head does not fit), src/models/{eagle3,dflash,gemma4-assistant}.cpp.
"""

from __future__ import annotations

from app.entities.gguf import GgufHeader
from app.entities.launch import DRAFTS_ITSELF
from app.use_cases.model_shape.hparams import Hparams

EAGLE3, DFLASH, DSPARK = "draft-eagle3", "draft-dflash", "draft-dspark"
ASSISTANTS = {"gemma4-assistant": "gemma4"}  # with the model whose KV cache they read
# Models whose graph hands out the inputs of its layers, which these heads read (b11549: t_layer_inp in src/models).
# Any other aborts at its first request.
_SHOWS_LAYERS = frozenset(
    {"bailingmoe3", "deepseek4", "gemma4", "gpt-oss", "hunyuan_vl", "lfm2", "llama", "mimo2", "minimax-m2", "nanbeige"}
    | {"nemotron_h", "qwen3", "qwen35", "qwen35moe", "qwen3moe", "qwen3next"}
)
_VOCABULARY = "tokenizer.ggml.tokens"


def head_type(header: GgufHeader) -> str:
    """The --spec-type that a draft head is for; "" for one that the engine of this release does not know."""
    if header.architecture == "eagle3":
        return EAGLE3
    if header.architecture == "dflash":
        return DSPARK if any(tensor.name == "markov_w1.weight" for tensor in header.tensors) else DFLASH
    is_known = header.architecture in ASSISTANTS or not header.architecture.endswith("-assistant")
    return DRAFTS_ITSELF if is_known and Hparams(header).integer("nextn_predict_layers") else ""


def head_fits(head: GgufHeader, model: GgufHeader) -> bool:
    """Whether the engine can draft with this head for the model, as far as the headers say."""
    own, other = Hparams(head), Hparams(model)
    if not _same(head.lengths.get(_VOCABULARY), model.lengths.get(_VOCABULARY)):
        return False
    width = other.integer("embedding_length")
    if head_type(head) in (EAGLE3, DFLASH, DSPARK):
        read_width = own.integer("target_hidden_size") or own.integer("embedding_length")
        return read_width == width and other.architecture in _SHOWS_LAYERS and _reads_layers_of(own, other)
    if head.architecture in ASSISTANTS:
        return other.architecture == ASSISTANTS[head.architecture] and own.integer("embedding_length_out") == width
    return other.architecture == own.architecture and own.integer("embedding_length") == width


def _reads_layers_of(head: Hparams, model: Hparams) -> bool:
    return isinstance(head.value("target_layers"), tuple) and head.integer("target_layers") < model.n_layer


def _same(one: int | None, other: int | None) -> bool:
    return None in (one, other) or one == other
