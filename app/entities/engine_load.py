"""EngineLoad: what the slots of a llama-server do at one moment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """Of all its running requests together. None: its engine does not report it, or has not been asked twice yet."""

    context_tokens: int | None = None  # in the KV cache: of prompts and of answers so far
    prompt_tokens_per_second: float | None = None
    tokens_per_second: float | None = None


IDLE = EngineLoad(0, 0.0, 0.0)
UNKNOWN = EngineLoad()
