"""What a header says of a model: what it was made for, and what lists show of it."""

from __future__ import annotations

from typing import Any

import pytest
from gguf.constants import LlamaFileType

from app.entities.capabilities import HeaderFacts, Media
from app.entities.gguf import GgufHeader, Tensor
from app.entities.launch import Task
from app.use_cases.model_shape.header_facts import QUANTIZATIONS, header_facts, projector_media


def a_header(architecture: str = "qwen3", tensors: tuple[str, ...] = ("token_embd.weight",), **keys: Any) -> GgufHeader:
    """`keys`: "__" stands for a dot; "A" for the architecture."""
    metadata = {key.replace("A__", f"{architecture}.").replace("__", "."): value for key, value in keys.items()}
    infos = tuple(Tensor(name, (64, 100), "F16", 12_800) for name in tensors)
    return GgufHeader({"general.architecture": architecture} | metadata, {"tokenizer.ggml.tokens": 100}, infos)


def with_template(template: str) -> HeaderFacts:
    return header_facts(a_header(tokenizer__chat_template=template))


def test_the_facts_of_a_chat_model_are_in_its_header():
    header = a_header(
        tensors=("token_embd.weight", "blk.0.attn_q.weight"),
        general__file_type=15,
        A__context_length=40960,
        A__embedding_length=64,
        tokenizer__chat_template="{% for message in messages %}{{ message.content }}{% endfor %}",
    )
    assert header_facts(header) == HeaderFacts(
        architecture="qwen3",
        parameters=2 * 64 * 100,
        quantization="Q4_K_M",
        context_tokens=40960,
        embedding_width=64,
        vocabulary=100,
        tensor_bytes=25_600,
        has_chat_template=True,
    )


def test_nothing_is_known_of_an_empty_header():
    assert header_facts(GgufHeader({}, {}, ())) == HeaderFacts()


@pytest.mark.parametrize(
    ("architecture", "pooling", "tensors", "task"),
    [
        ("qwen3", None, (), Task.COMPLETION),
        ("qwen3", 3, (), Task.EMBEDDING),  # Qwen3-Embedding
        ("qwen3", 4, ("cls.output.weight",), Task.RERANK),  # Qwen3-Reranker
        ("gemma-embedding", 1, (), Task.EMBEDDING),
        ("bert", 2, (), Task.EMBEDDING),
        ("bert", 1, ("cls.weight",), Task.EMBEDDING),  # a classifier's rest: the file says how it pools
        ("bert", None, ("cls.weight", "cls.output.weight"), Task.RERANK),  # bge-reranker-v2-m3
        ("jina-bert-v2", None, ("cls.weight",), Task.RERANK),  # jina-reranker-v1-tiny
        ("modern-bert", None, (), Task.EMBEDDING),
        ("llama", 0, (), Task.COMPLETION),
        ("llada", None, (), Task.COMPLETION),
        ("bert", "last", (), Task.EMBEDDING),
    ],
)
def test_a_model_is_made_for_what_its_pooling_classifier_or_architecture_says(
    architecture: str, pooling: object, tensors: tuple[str, ...], task: Task
):
    pooled = {} if pooling is None else {"A__pooling_type": pooling}
    assert header_facts(a_header(architecture, tensors, **pooled)).task is task


def test_an_embedding_model_whose_file_names_no_pooling_pools_by_the_mean():
    """llama-server would not pool, and rejects /v1/embeddings then."""
    assert header_facts(a_header("bert")).pooling == "mean"
    assert header_facts(a_header("bert", A__pooling_type=2)).pooling == ""
    assert header_facts(a_header("bert", ("cls.weight",))).pooling == ""
    assert header_facts(a_header("llama")).pooling == ""


def test_a_model_that_chats_may_name_a_pooling():
    """The demo model and GritLM do; llama-server then also embeds with them, if it is started for that."""
    chats = {"tokenizer__chat_template": "{{ messages }}"}
    assert header_facts(a_header("llama", A__pooling_type=1, **chats)).task is Task.COMPLETION
    assert header_facts(a_header("llama", A__pooling_type=1)).task is Task.EMBEDDING
    assert header_facts(a_header("qwen3", A__pooling_type=3, **chats)).task is Task.EMBEDDING
    assert header_facts(a_header("qwen2", A__attention__causal=False, **chats)).task is Task.EMBEDDING
    assert header_facts(a_header("llada", A__attention__causal=False, **chats)).task is Task.COMPLETION


@pytest.mark.parametrize(
    ("template", "tools", "thinking"),
    [
        ("{{ messages }}", False, False),
        ("{% if tools %}{{ tools }}{% endif %}", True, False),
        ("{{ toolset }}", False, False),
        ("{% if enable_thinking is false %}<think>\n\n</think>{% endif %}", False, True),  # Qwen3
        ("<|channel|>analysis {% if tools %}", True, True),  # gpt-oss
        ("[THINK]", False, True),  # Magistral
    ],
)
def test_a_template_tells_whether_a_model_takes_tools_and_thinks(template: str, tools: bool, thinking: bool):
    facts = with_template(template)
    assert (facts.has_chat_template, facts.template_has_tools, facts.template_has_thinking) == (True, tools, thinking)


def test_a_second_template_for_tools_counts():
    both = {"tokenizer__chat_template": "{{ messages }}", "tokenizer__chat_template__tool_use": "{{ x }}"}
    assert header_facts(a_header(**both)).template_has_tools


def test_quantizations_have_the_names_of_the_file_types():
    numbers = {each.value: each.name.removeprefix("MOSTLY_").removeprefix("ALL_") for each in LlamaFileType}
    del numbers[LlamaFileType.GUESSED.value]
    assert {number: name for number, name in enumerate(QUANTIZATIONS) if name} == numbers


@pytest.mark.parametrize(
    ("declared", "name"), [(7, "Q8_0"), (1024 | 15, "Q4_K_M"), (4, ""), (999, ""), (-1, ""), (None, ""), ("7", "")]
)
def test_a_file_type_is_named_if_it_is_known(declared: object, name: str):
    assert header_facts(a_header(general__file_type=declared)).quantization == name


@pytest.mark.parametrize(
    ("keys", "media"),
    [
        ({"clip__has_vision_encoder": True}, {Media.IMAGE}),
        ({"clip__has_audio_encoder": True, "clip__has_vision_encoder": False}, {Media.AUDIO}),
        ({"clip__has_audio_encoder": True, "clip__has_vision_encoder": True}, {Media.IMAGE, Media.AUDIO}),
        ({}, set()),
    ],
)
def test_a_projector_says_what_it_takes(keys: dict[str, bool], media: set[Media]):
    assert projector_media(a_header("clip", **keys)) == media
