"""What a server can be asked for: by the model's header, its projector and the `args`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.entities.capabilities import Capabilities, HeaderFacts, Media
from app.entities.launch import AUTO_PROMPT_CACHE, AUTO_UBATCH, LaunchSettings, Task
from app.use_cases.launch.capabilities import capabilities_of, launch_for_task, served_task
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


# --- how it is started -------------------------------------------------------------------------------------------


def started(facts: HeaderFacts, args: str = "", **options: object) -> LaunchSettings:
    launch = a_launch(args)
    changes = {"ubatch_size": AUTO_UBATCH, "ctx_size": 4096, **options}
    found = launch_for_task(replace(launch, options=replace(launch.options, **changes)), facts)  # type: ignore[arg-type]
    assert launch_for_task(found, facts) == found
    return found


@pytest.mark.parametrize(
    ("facts", "args", "expected"),
    [
        (CHAT, "", ""),
        (HeaderFacts(task=Task.EMBEDDING), "", "--embeddings"),
        (HeaderFacts(task=Task.EMBEDDING, pooling="mean"), "-v", "-v --embeddings --pooling mean"),
        (HeaderFacts(task=Task.RERANK), "", "--reranking"),
        (HeaderFacts(task=Task.EMBEDDING, pooling="mean"), "--embeddings", "--embeddings"),
        (HeaderFacts(task=Task.EMBEDDING), "--pooling none", "--pooling none"),
    ],
)
def test_a_model_is_started_for_its_task_unless_the_arguments_name_one(facts: HeaderFacts, args: str, expected: str):
    assert " ".join(started(facts, args).args) == expected


@pytest.mark.parametrize(
    ("task", "options", "batches"),
    [
        (Task.COMPLETION, {}, (2048, 512)),
        (Task.EMBEDDING, {}, (4096, 4096)),
        (Task.RERANK, {"ctx_size": 1000}, (2048, 1024)),  # as llama.cpp rounds it up
        (Task.EMBEDDING, {"ctx_size": 32768}, (8192, 8192)),  # a slot has no more than the training context
        (Task.EMBEDDING, {"ctx_size": 16384, "kv_unified": False}, (4096, 4096)),
        (Task.EMBEDDING, {"ubatch_size": 512}, (2048, 512)),
    ],
)
def test_a_whole_input_fits_into_one_ubatch(task: Task, options: dict[str, object], batches: tuple[int, int]):
    found = started(HeaderFacts(task=task, context_tokens=8192), **options).options
    assert (found.batch_tokens, found.ubatch_tokens) == batches


@pytest.mark.parametrize("adapters", ["--lora a.gguf", "--lora-scaled a.gguf:0.5"])
def test_a_model_with_adapters_has_no_prompt_cache(adapters: str):
    """A request with a huge scale took over the answers of others whose prompts began like its own."""
    launch = a_launch(adapters)
    for size in (AUTO_PROMPT_CACHE, 64 * 1024**2):
        configured = replace(launch, options=replace(launch.options, prompt_cache=size))
        assert launch_for_task(configured, CHAT).options.prompt_cache == 0
    assert launch_for_task(replace(a_launch(), options=configured.options), CHAT).options.prompt_cache == size
