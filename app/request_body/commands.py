"""Slash commands in the last message of a chat request, as in the original service: "/rag /parallel Who ...?"."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from app.entities.media_urls import ANY_MEDIA
from app.request_body.buffer import Buffer
from app.request_body.json_body import read_json


def commands_in(body: Buffer, known: Collection[str]) -> tuple[str, ...]:
    """The known commands in its last message, if that is a user's, in their order.

    Raises InvalidRequest for what is no JSON object.
    """
    messages = dict(read_json(body, ANY_MEDIA, may_be_a_list=True)).get("messages")
    last = dict(messages[-1]) if isinstance(messages, list) and messages and _is_object(messages[-1]) else {}
    words = " ".join(_texts(last.get("content"))).split() if last.get("role") == "user" else []
    found = dict.fromkeys(word[1:] for word in words if word[:1] == "/" and word[1:] in known)
    return tuple(found)


def _texts(content: object) -> Iterator[str]:
    """Of a string, or of the parts of a message."""
    if isinstance(content, str):
        yield content
    for part in content if isinstance(content, list) else ():
        if _is_object(part) and isinstance(text := dict(part).get("text"), str):
            yield text


def _is_object(value: object) -> bool:
    """Objects are tuples of pairs."""
    return isinstance(value, tuple)
