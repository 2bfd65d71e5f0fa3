"""The beginning of a stream whose model is still loading: progress, once a second.

Progress is a comment, which clients ignore, or reasoning text, which chat clients display: see
scheduling.loading_comments.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from app.entities.server import Server, ServerState
from app.ports import Lease, SlotRequest
from app.routes.paths import CHAT_ROUTES

HEADERS = [("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache"), ("X-Accel-Buffering", "no")]

SILENT_SECONDS = 2.0  # of waiting, before a stream begins with progress
CHECK_SECONDS = 0.25  # after that: how often to check whether the load has started
COMMENT_SECONDS = 1.0  # between two comments


def wait_silently(slot: SlotRequest, server_of_model: Callable[[], Server | None]) -> Lease | None:
    """The slot; None if its model is loading and takes so long that the client should see progress.

    Until the load has started a rejection can still have a status of its own, so the stream does not begin.
    """
    lease = slot.wait(SILENT_SECONDS)
    while lease is None and not _is_loading(server_of_model()):
        lease = slot.wait(CHECK_SECONDS)
    return lease


def write_progress(
    write: Callable[[bytes], object],
    slot: SlotRequest,
    model: str,
    server_of_model: Callable[[], Server | None],
    route: str,
    setting: bool | str,
) -> Lease:
    """Write how far the load is, until there is a slot. Raises the ProxyError of a rejected request.

    `model`: its name, without anything that could end a line. `setting`: scheduling.loading_comments.
    """
    last_text, lease = "", None
    while lease is None:
        text = _progress(model, server_of_model())
        write(progress_event(text, route, setting if text != last_text else True))
        last_text, lease = text, slot.wait(COMMENT_SECONDS)
    return lease


def _is_loading(server: Server | None) -> bool:
    return server is not None and server.state is ServerState.STARTING


def _progress(model: str, server: Server | None) -> str:
    share = server.load_progress if server is not None else None
    return f"loading {model}" + ("" if share is None else f" {100 * share:.0f} %")


def progress_event(text: str, route: str, setting: bool | str) -> bytes:
    """`text`: without anything that could end a line. `setting`: scheduling.loading_comments."""
    if setting != "reasoning_content" or route not in CHAT_ROUTES:
        return f": {text}\n\n".encode()
    delta = {"role": "assistant", "reasoning_content": f"{text}\n"}
    choices = [{"index": 0, "delta": delta, "finish_reason": None}]
    now = int(time.time())
    chunk = {"id": f"loading-{now}", "object": "chat.completion.chunk", "created": now, "model": "", "choices": choices}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"
