"""How far a llama-server has loaded its model, from its log.

llama.cpp's child protocol, active while LLAMA_SERVER_ROUTER_PORT is set (b11434: server-context.cpp,
load_progress_callback; server-models.cpp): one line of JSON for each step, at most five a second.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

_STATE = "cmd_child_to_router:state:"


def load_progress(lines: Iterable[str]) -> float | None:
    """The share that is loaded, 0 to 1, by the last of these lines that reports it. All stages count the same."""
    for line in reversed(list(lines)):
        if line.startswith(_STATE) and (share := _share(line.removeprefix(_STATE))) is not None:
            return share
    return None


def _share(text: str) -> float | None:
    try:
        payload = json.loads(text)["payload"]
        stages, current, value = payload["stages"], payload["current"], float(payload["value"])
        share = (stages.index(current) + value) / len(stages)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None  # another state, or the format of another build
    return share if 0.0 <= share <= 1.0 else None
