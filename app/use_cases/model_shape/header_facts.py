"""HeaderFacts from a header: for which task a model was made, and what lists say about it.

Sources, llama.cpp b11434: src/llama-model.cpp (pooling_type, cls tensors), src/llama-vocab.cpp (tokens for infill),
common/chat.cpp (templates); ollama 0.30, server/images.go (Capabilities).
"""

from __future__ import annotations

import re
from math import prod

from app.entities.capabilities import HeaderFacts, Media
from app.entities.gguf import GgufHeader
from app.entities.launch import Task
from app.use_cases.model_shape.hparams import Hparams

_LAST, _RANK = 3, 4  # enum llama_pooling_type
_POOLED = frozenset({1, 2, _LAST, _RANK})  # mean, cls
_DIFFUSION = frozenset({"dream", "llada", "llada-moe", "rnd1"})  # not causal either, but made to generate text
# Encoders, which can only embed.
_ENCODERS = frozenset(
    {
        *("bert", "jina-bert-v2", "jina-bert-v3", "nomic-bert", "nomic-bert-moe", "neo-bert", "eurobert"),
        *("modern-bert", "gemma-embedding", "gemma-embedding2", "llama-embed", "t5encoder"),
    }
)
_CLASSIFIERS = frozenset({"cls.weight", "cls.output.weight"})
_TEMPLATE = "tokenizer.chat_template"
_TOOLS = re.compile(r"\btools\b")
_THINKING = re.compile(
    r"enable_thinking|reasoning_content|reasoning_effort|</?think>|<\|channel\|>|<\|think\|>|\[THINK\]|<seed:think>"
    r"|<\|START_THINKING\|>"
)
_GUESSED = 1024  # LLAMA_FTYPE_GUESSED, a flag
# By general.file_type (llama.h, llama_ftype); "": retired.
QUANTIZATIONS = (
    *("F32", "F16", "Q4_0", "Q4_1", "", "", "", "Q8_0", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L"),
    *("Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ2_XXS", "IQ2_XS", "Q2_K_S", "IQ3_XS", "IQ3_XXS"),
    *("IQ1_S", "IQ4_NL", "IQ3_S", "IQ3_M", "IQ2_S", "IQ2_M", "IQ4_XS", "IQ1_M", "BF16", "", "", "", "TQ1_0"),
    *("TQ2_0", "MXFP4_MOE", "NVFP4", "Q1_0"),
)


def header_facts(header: GgufHeader) -> HeaderFacts:
    """The facts in a model's header. Never raises: what is missing is unknown."""
    hp, template = Hparams(header), str(header.metadata.get(_TEMPLATE, ""))
    task = _task(header, hp)
    return HeaderFacts(
        architecture=header.architecture,
        parameters=sum(prod(tensor.shape) for tensor in header.tensors),
        quantization=_quantization(header),
        context_tokens=hp.integer("context_length"),
        embedding_width=hp.n_embd,
        vocabulary=hp.n_vocab,
        tensor_bytes=sum(tensor.size_bytes for tensor in header.tensors),
        task=task,
        pooling="mean" if task is Task.EMBEDDING and hp.integer("pooling_type") not in _POOLED else "",
        has_chat_template=_TEMPLATE in header.metadata,
        template_has_tools=bool(_TOOLS.search(template)) or f"{_TEMPLATE}.tool_use" in header.metadata,
        template_has_thinking=_THINKING.search(template) is not None,
        has_infill_tokens=header.has_infill_tokens,
    )


def projector_media(header: GgufHeader) -> frozenset[Media]:
    """What a projector with this header takes (b11434, tools/mtmd/clip.cpp: an absent flag is False)."""
    kinds = {Media.IMAGE: "clip.has_vision_encoder", Media.AUDIO: "clip.has_audio_encoder"}
    return frozenset(media for media, key in kinds.items() if header.metadata.get(key) is True)


def _task(header: GgufHeader, hp: Hparams) -> Task:
    """By the pooling that the file asks for, else by a classifier's tensors, else by the architecture.

    A file that ranks may say nothing of its pooling: `--reranking` sets it.
    """
    pooling = hp.integer("pooling_type")
    has_classifier = any(tensor.name in _CLASSIFIERS for tensor in header.tensors)
    if pooling == _RANK or (has_classifier and pooling not in _POOLED):
        return Task.RERANK
    is_encoder = header.architecture in _ENCODERS or (
        hp.value("attention.causal") is False and header.architecture not in _DIFFUSION
    )
    # A model that chats may name its pooling by the mean, too (GritLM): only that of the last token is no chat model's.
    pools = pooling in _POOLED and (pooling == _LAST or _TEMPLATE not in header.metadata)
    return Task.EMBEDDING if is_encoder or pools else Task.COMPLETION


def _quantization(header: GgufHeader) -> str:
    declared = header.metadata.get("general.file_type")
    number = declared & ~_GUESSED if isinstance(declared, int) else -1
    return QUANTIZATIONS[number] if 0 <= number < len(QUANTIZATIONS) else ""
