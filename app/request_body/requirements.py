"""What a body requires of its model beyond text: pictures, audio, tools."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from app.entities.capabilities import Media, MediaPart
from app.request_body.json_body import Pair

# Types of a message's parts, in the order of OpenAI's chat, its responses, and Anthropic's messages. llama-server
# (b11549) rejects these without a projector. What is deeper, as in a tool's result, it may also skip.
_MEDIA = {
    "image_url": Media.IMAGE,
    "input_image": Media.IMAGE,
    "image": Media.IMAGE,
    "input_audio": Media.AUDIO,
}
_MESSAGES = ("messages", "input")


def media_parts(pairs: Iterable[Pair]) -> tuple[MediaPart, ...]:
    """The first part of each kind of media in the content of messages."""
    found: dict[Media, MediaPart] = {}
    for key, value in pairs:
        if key in _MESSAGES and isinstance(value, list):
            for part in _in_messages(key, value):
                found.setdefault(part.media, part)
    return tuple(found.values())


def _in_messages(key: str, messages: list[object]) -> Iterator[MediaPart]:
    for index, message in enumerate(messages):
        for name, content in _members(message):
            if name == "content" and isinstance(content, list):
                for number, part in enumerate(content):
                    kind = next((value for name, value in _members(part) if name == "type"), None)
                    if isinstance(kind, str) and kind in _MEDIA:
                        yield MediaPart(_MEDIA[kind], f"{key}[{index}].content[{number}]")


def offers_tools(pairs: Iterable[Pair]) -> bool:
    """Whether the answer may call a tool."""
    return any(key == "tools" and bool(value) for key, value in pairs)


def requires_tool_call(pairs: Iterable[Pair]) -> bool:
    """Whether the answer must call a tool: OpenAI's "required", Anthropic's types "any" and "tool"."""
    choice = next((value for key, value in pairs if key == "tool_choice"), None)
    return choice == "required" or any(pair in _members(choice) for pair in (("type", "any"), ("type", "tool")))


def _members(value: object) -> tuple[Pair, ...]:
    """Of a parsed object; none of anything else."""
    return value if isinstance(value, tuple) else ()
