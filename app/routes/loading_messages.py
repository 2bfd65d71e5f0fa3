"""What a stream says while its model is loaded: comments, which clients read over, or thoughts, which chats show."""

from __future__ import annotations

import json
import time

from app.entities.server import Server

HEADERS = [("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache"), ("X-Accel-Buffering", "no")]
CHATS = ("/v1/chat/completions", "/chat/completions")


def progress(model: str, server: Server | None) -> str:
    """One line. `model` is its name with nothing in it that could end a line."""
    share = server.load_progress if server is not None else None
    return f"loading {model}" + ("" if share is None else f" {100 * share:.0f} %")


def as_event(text: str, route: str, how: bool | str) -> bytes:
    """`how` is the setting `loading_comments`."""
    if how != "reasoning_content" or route not in CHATS:
        return f": {text}\n\n".encode()
    delta = {"role": "assistant", "reasoning_content": f"{text}\n"}
    choices = [{"index": 0, "delta": delta, "finish_reason": None}]
    now = int(time.time())
    chunk = {"id": f"loading-{now}", "object": "chat.completion.chunk", "created": now, "model": "", "choices": choices}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"
