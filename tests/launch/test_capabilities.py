"""What a server can be asked for: by the model's header, its projector and the `args`."""

from __future__ import annotations

import pytest

from app.entities.capabilities import Capabilities, HeaderFacts, Media
from app.entities.launch import LaunchSettings, Task
from app.use_cases.launch.capabilities import capabilities_of, served_task
from app.use_cases.launch.parsed_args import parse_model_options

CHAT = HeaderFacts(has_chat_template=True, template_has_tools=True, template_has_thinking=True, has_infill_tokens=True)


def a_launch(args: str = "") -> LaunchSettings:
    words = tuple(args.split())
    return LaunchSettings(parse_model_options(words), args=words)


def test_a_chat_model_generates_calls_tools_thinks_and_fills_in():
    assert capabilities_of(CHAT, a_launch(), ()) == Capabilities(
        completion=True, chat=True, tools=True, thinking=True, infill=True
    )


def test_a_model_without_a_template_only_completes():
    facts = HeaderFacts(template_has_tools=True)
    assert capabilities_of(facts, a_launch(), ()) == Capabilities(completion=True)
    assert capabilities_of(facts, a_launch("--chat-template-file=x.jinja"), ()) == Capabilities(
        completion=True, chat=True, tools=True
    )


def test_a_projector_lets_a_model_see_and_hear():
    assert capabilities_of(HeaderFacts(), a_launch(), {Media.IMAGE}) == Capabilities(completion=True, vision=True)
    assert capabilities_of(HeaderFacts(), a_launch(), {Media.AUDIO}) == Capabilities(completion=True, audio=True)


def test_embedding_and_rerank_models_do_nothing_else():
    embedding = HeaderFacts(task=Task.EMBEDDING, has_chat_template=True, template_has_tools=True)
    assert capabilities_of(embedding, a_launch(), ()) == Capabilities(embedding=True)
    assert capabilities_of(HeaderFacts(task=Task.RERANK), a_launch(), ()) == Capabilities(rerank=True)


@pytest.mark.parametrize(
    ("made_for", "args", "task"),
    [
        (Task.COMPLETION, "", Task.COMPLETION),
        (Task.COMPLETION, "--embeddings", Task.EMBEDDING),
        (Task.COMPLETION, "--rerank", Task.RERANK),
        (Task.EMBEDDING, "", Task.EMBEDDING),
        (Task.EMBEDDING, "--reranking", Task.RERANK),
        (Task.EMBEDDING, "--pooling none", Task.COMPLETION),
        (Task.EMBEDDING, "--embedding --pooling=cls", Task.EMBEDDING),
        (Task.RERANK, "--verbose", Task.RERANK),
    ],
)
def test_arguments_decide_what_a_model_is_served_for(made_for: Task, args: str, task: Task):
    assert served_task(HeaderFacts(task=made_for), a_launch(args)) is task
