"""Counts the tokens of a request for its API key."""

from __future__ import annotations

from app.ports import EngineAnswer
from app.routes.paths import READING_ROUTES, ROUTES_WITHOUT_TOKENS
from app.use_cases.token_counts import Prompts, used_tokens


def tokens_of_key(
    route: str, prompts: Prompts, answer: EngineAnswer | None, is_complete: bool, is_disconnected: bool
) -> int:
    """What a request that was sent to an engine counts. `answer`: None if there is none, which counts only if the
    client did not wait for it; `is_complete`: all of it was sent."""
    if route in ROUTES_WITHOUT_TOKENS:
        return 0
    if answer is None:
        return prompts.estimated_tokens if is_disconnected else 0
    if answer.status >= 300:
        return 0
    completion = 0 if route in READING_ROUTES else answer.estimated_tokens()
    return used_tokens(prompts, answer.usage(), is_complete, completion)
