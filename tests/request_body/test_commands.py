"""Slash commands in chat requests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.request_body.commands import commands_in


def said(content: Any, role: str = "user") -> tuple[str, ...]:
    body = json.dumps({"messages": [{"role": "user", "content": "/rag"}, {"role": role, "content": content}]}).encode()
    return commands_in(body, {"rag", "parallel"})


@pytest.mark.parametrize(
    ("content", "commands"),
    [
        ("/rag Who is it?", ("rag",)),
        ("Ask /parallel and\n/rag and /rag", ("parallel", "rag")),
        ([{"text": "/rag"}, {"type": "image_url"}, {"text": "/parallel"}], ("rag", "parallel")),
        ("/RAG /ragged a/rag / rag //rag /rag.", ()),
        (None, ()),
        ([1, [], {"text": 5}], ()),
    ],
)  # fmt: skip
def test_a_command_is_a_word_of_the_users_last_message(content: Any, commands: tuple[str, ...]):
    assert said(content) == commands
    assert said(content, role="assistant") == ()


@pytest.mark.parametrize(
    "body", [b"[]", b"{}", b'{"messages": []}', b'{"messages": "/rag"}', b'{"messages": ["/rag"]}']
)
def test_a_body_without_messages_has_no_commands(body: bytes):
    assert commands_in(body, {"rag"}) == ()
