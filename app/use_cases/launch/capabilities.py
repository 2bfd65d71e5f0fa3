"""What a server of a model can be asked for: its header, its projector, and what its `args` make of it."""

from __future__ import annotations

from collections.abc import Collection

from app.entities.capabilities import Capabilities, HeaderFacts, Media
from app.entities.launch import LaunchSettings, Task
from app.use_cases.launch.parsed_args import option_pairs

_TASK_OPTIONS = frozenset({"--embeddings", "--embedding", "--reranking", "--rerank", "--pooling"})
_TEMPLATES = frozenset({"--chat-template", "--chat-template-file"})


def served_task(facts: HeaderFacts, launch: LaunchSettings) -> Task:
    """The task for which the server is started: that of the `args` if they name one, else what the model is made for.

    `--pooling` alone names one too: a model started with it computes no embeddings.
    """
    named = any(option in _TASK_OPTIONS for option, _ in option_pairs(launch.args))
    return launch.options.task if named else facts.task


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
