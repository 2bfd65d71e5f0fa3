"""What a server of a model is started for and can be asked for: by its header, its projector and its `args`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from app.entities.capabilities import Capabilities, HeaderFacts, Media
from app.entities.launch import AUTO_UBATCH, LaunchSettings, Task
from app.use_cases.launch.command_line import avoid_known_crash
from app.use_cases.launch.parsed_args import companion_paths, option_pairs

_TASK_OPTIONS = frozenset({"--embeddings", "--embedding", "--reranking", "--rerank", "--pooling"})
_FLAGS = {Task.COMPLETION: (), Task.EMBEDDING: ("--embeddings",), Task.RERANK: ("--reranking",)}
_TEMPLATES = frozenset({"--chat-template", "--chat-template-file"})


def served_task(facts: HeaderFacts, launch: LaunchSettings) -> Task:
    """The task for which the server is started: that of the `args` if they name one, else what the model is made for.

    `--pooling` alone names one too: a model started with it computes no embeddings.
    """
    return launch.options.task if _names_task(launch) else facts.task


def launch_as_started(launch: LaunchSettings, facts: HeaderFacts) -> LaunchSettings:
    """The settings that a model is really started with: for its task, and avoiding the engine's known faults."""
    return avoid_known_crash(launch_for_task(launch, facts), facts.architecture)


def launch_for_task(launch: LaunchSettings, facts: HeaderFacts) -> LaunchSettings:
    """The settings with which the model serves what it was made for, unless the `args` name another task.

    Applied twice, it changes nothing more. A slot has the training context at most, and so has an automatic ubatch.
    """
    options = replace(launch.options, task=served_task(facts, launch))
    if options.task is not Task.COMPLETION or companion_paths(launch).adapters:
        # llama-server caches only prompts of texts that it generates. Its cache knows nothing of adapters: what was
        # computed under the scales of one request would be reused for another (b11549, server-task.cpp).
        options = replace(options, prompt_cache=0)
    if options.ubatch_size == AUTO_UBATCH and 0 < facts.context_tokens < options.slot_tokens:
        trained = replace(options, ctx_size=facts.context_tokens, kv_unified=True).slot_tokens
        if options.task is not Task.COMPLETION:
            options = replace(options, ubatch_size=trained, batch_size=max(options.batch_size, trained))
    flags = () if _names_task(launch) else _FLAGS[options.task]
    pooling = ("--pooling", facts.pooling) if flags and facts.pooling else ()
    return replace(launch, options=options, args=(*launch.args, *flags, *pooling))


def _names_task(launch: LaunchSettings) -> bool:
    return any(option in _TASK_OPTIONS for option, _ in option_pairs(launch.args))


def capabilities_of(facts: HeaderFacts, launch: LaunchSettings, media: Collection[Media]) -> Capabilities:
    """What a server started with these settings can be asked for. `media`: what its projector takes."""
    task = served_task(facts, launch)
    generates = task is Task.COMPLETION
    has_template = any(option in _TEMPLATES for option, _ in option_pairs(launch.args)) or facts.has_chat_template
    chats = generates and has_template
    return Capabilities(
        completion=generates,
        chat=chats,
        tools=chats and facts.template_has_tools,
        thinking=chats and facts.template_has_thinking,
        infill=generates and facts.has_infill_tokens,
        vision=Media.IMAGE in media,
        audio=Media.AUDIO in media,
        embedding=task is Task.EMBEDDING,
        rerank=task is Task.RERANK,
    )
