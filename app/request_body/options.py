"""Options of a request besides its model: how long to keep it, how much context, how many prompts, which conversation.

`keep_alive` and `num_ctx` are sent by Ollama's clients, `ttl` by LM Studio's. The engine ignores them.
"""

from __future__ import annotations

import marshal
import math
import re
from collections.abc import Iterable, Iterator
from hashlib import blake2b

from app.errors import InvalidRequest
from app.request_body.json_body import Pair

MAX_DURATION_CHARACTERS = 40  # _PART takes quadratic time, and holds Python's lock meanwhile
CONVERSATION_HEADERS = ("X-Conversation-Id", "X-Session-Id", "X-OpenWebUI-Chat-Id")  # never forwarded to the engine
PROMPT_CHARACTERS = 256  # of a prompt without messages: a later one of the conversation begins with them too
PROMPT_LISTS = {"prompt", "input", "content", "documents", "texts"}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PLAIN = 2  # the last marshal version that writes equal values alike, whatever else refers to them


def keep_alive_seconds(pairs: Iterable[Pair]) -> float | None:
    """How long to keep the model after the answer, by `keep_alive` or `ttl`: seconds, or a duration as "1h30m".

    Infinity for a negative one; None without one. Raises InvalidRequest.
    """
    values = [(key, value) for key, value in pairs if key in ("keep_alive", "ttl") and value is not None]
    if not values:
        return None
    key, value = values[-1]
    seconds = _seconds(value)
    if seconds is None:
        form = '300 or "5m"; 0 unloads the model after the answer, a negative value keeps it until memory is needed'
        raise InvalidRequest(f"{key} is neither seconds nor a duration; write it like {form}", param=key)
    return math.inf if seconds < 0 else seconds


def _seconds(value: object) -> float | None:
    if isinstance(value, float) and not math.isnan(value):
        return value
    if not isinstance(value, str) or len(value) > MAX_DURATION_CHARACTERS:
        return None
    sign, text = (-1.0, value[1:]) if value.startswith("-") else (1.0, value)
    if re.fullmatch(r"\d+(?:\.\d+)?", text):
        return sign * float(text)
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sign * sum(float(number) * _SECONDS[unit] for number, unit in parts)


def requested_context(pairs: Iterable[Pair]) -> int | None:
    """Tokens, by `num_ctx` or `options.num_ctx`; None without one, or if it is not a whole number."""
    for key, value in pairs:
        if key == "options" and isinstance(value, tuple):
            inner = requested_context(pair for pair in value if isinstance(pair, tuple) and len(pair) == 2)
            if inner is not None:
                return inner
        elif key == "num_ctx" and isinstance(value, float) and value.is_integer():
            return int(value)
    return None


def prompt_count(pairs: Iterable[Pair]) -> int:
    """How many prompts the body has at most. For the engine, a list may also be one prompt in several parts."""
    lists = [value for key, value in pairs if key in PROMPT_LISTS and isinstance(value, list)]
    return max((len(texts) for texts in lists if texts), default=1)


def query_bytes(pairs: Iterable[Pair]) -> int:
    """Of what a reranker reads together with each document."""
    queries = [value for key, value in pairs if key == "query" and isinstance(value, str)]
    return sum(len(query.encode("utf-8", "surrogatepass")) for query in queries)


def opening_hash(pairs: Iterable[Pair]) -> int | None:
    """A number that all requests of a conversation have in common: one of the model's servers has it cached.

    By the first of these that is there: OpenAI's `prompt_cache_key`, the messages up to the first of a user, the
    beginning of the prompt. None without any. The same in every process, unlike Python's `hash`.
    """
    body = dict(pairs)
    if isinstance(key := body.get("prompt_cache_key"), str) and key:
        return hash_of_text(key)
    messages = body.get("messages", body.get("input"))  # /v1/responses has the latter
    if isinstance(messages, list) and messages and isinstance(messages[0], tuple):
        # Not by walking through it in Python: that took twice as long as parsing it, and both hold Python's lock.
        return _hash(marshal.dumps(list(_opening(messages)), _PLAIN))
    if isinstance(prompt := body.get("prompt"), str) and prompt:
        return hash_of_text(prompt[:PROMPT_CHARACTERS])
    return None


def hash_of_text(text: str) -> int:
    """Eight bytes that are the same in every process."""
    return _hash(text.encode("utf-8", "surrogatepass"))


def _hash(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


def _opening(messages: list[object]) -> Iterator[object]:
    for message in messages:
        yield message
        if isinstance(message, tuple) and ("role", "user") in message:
            return
