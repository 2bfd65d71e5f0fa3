"""How many tokens a request counts for its API key: as the engine counted them, else by an estimate.

An estimate errs towards too many. Otherwise a client could use more than its quota by leaving each stream before the
event that has the counts, or by routes and options whose answers have none.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.entities.token_usage import TokenUsage

BYTES_PER_TOKEN = 3  # nearly all texts have more: English 4 to 5, and a body is JSON


@dataclass(frozen=True, slots=True)
class Prompts:
    """What a request has an engine read."""

    count: int = 1  # of prompts in the body, or more
    size_bytes: int = 0  # of the body, and of what it has once but the engine reads with every prompt
    context_tokens: int = 0  # that one prompt can have at most; 0: unknown

    @property
    def estimated_tokens(self) -> int:
        """Of a picture, which is long in a body and short for the engine, the context is the better bound."""
        tokens = tokens_in(self.size_bytes)
        return min(tokens, self.count * self.context_tokens) if self.context_tokens else tokens


def tokens_in(size_bytes: int) -> int:
    """Tokens of a text of this size."""
    return -(-size_bytes // BYTES_PER_TOKEN)


def used_tokens(prompts: Prompts, reported: TokenUsage, is_complete: bool, estimated_completion: int) -> int:
    """Tokens of a request and of what arrived of its answer. `is_complete`: all of it did."""
    prompt, completion = reported.prompt_tokens, reported.completion_tokens
    is_final = is_complete and reported.is_whole
    if prompt is None or (prompts.count > 1 and not is_final):  # a part of the prompts may not have been reported
        prompt = max(prompt or 0, prompts.estimated_tokens)
    if completion is None or not is_final:
        completion = max(completion or 0, estimated_completion)
    return prompt + completion
