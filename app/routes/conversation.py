"""Which conversation a request belongs to, where its model may have several servers: one of them has it cached."""

from __future__ import annotations

import marshal
from collections.abc import Iterable, Iterator

from app.routes.incoming_request import IncomingRequest

# What clients call it. Nothing of this goes on to the engine.
HEADERS = ("X-Conversation-Id", "X-Session-Id", "X-OpenWebUI-Chat-Id")
PROMPT_CHARACTERS = 256  # of one without messages: what a longer one begins with, too
_PLAIN = 2  # the last form that writes equal values alike, whoever else refers to them


def conversation(request: IncomingRequest, pairs: Iterable[tuple[str, object]]) -> int | None:
    """A number that all requests of a conversation share, in this process: by a header or `prompt_cache_key` (OpenAI's
    word for it), else by what they all begin with: the messages up to the first of a user, or a prompt's beginning.
    None where nothing is said. `pairs` are its JSON's."""
    if said := next(filter(None, map(request.header, HEADERS)), ""):
        return hash(said)
    body = dict(pairs)
    if isinstance(key := body.get("prompt_cache_key"), str) and key:
        return hash(key)
    messages = body.get("messages", body.get("input"))  # /v1/responses has the latter
    if isinstance(messages, list) and messages and isinstance(messages[0], tuple):
        # Not by walking through it in Python: that took twice as long as reading it, and both hold Python's lock.
        return hash(marshal.dumps(list(_opening(messages)), _PLAIN))
    if isinstance(prompt := body.get("prompt"), str) and prompt:
        return hash(prompt[:PROMPT_CHARACTERS])
    return None


def _opening(messages: list[object]) -> Iterator[object]:
    for message in messages:
        yield message
        if isinstance(message, tuple) and ("role", "user") in message:
            return
