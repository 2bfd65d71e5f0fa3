"""EngineLoad: what the slots of a llama-server do at one moment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """Of all its running requests together. None: its engine does not report it, or has not been asked twice yet."""

    context_tokens: int | None = None  # in the KV cache: of prompts and of answers so far
    prompt_tokens_per_second: float | None = None
    tokens_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class Drafts:
    """Tokens that were drafted for a llama-server since it was started."""

    tokens: int
    accepted: int  # by its model

    @property
    def acceptance(self) -> float:
        return self.accepted / self.tokens if self.tokens else 0.0


IDLE = EngineLoad(0, 0.0, 0.0)
UNKNOWN = EngineLoad()
