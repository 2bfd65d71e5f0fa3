"""TokenUsage: the tokens of one answer, as its engine counted them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """None: the answer does not tell, or has not told so far."""

    prompt_tokens: int | None = None  # those that the engine had cached included
    completion_tokens: int | None = None
    is_whole: bool = True  # False: of only one of several prompts or choices that it answers
    generation_seconds: float | None = None  # that the engine took for the completion
