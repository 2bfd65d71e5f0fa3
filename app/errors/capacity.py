"""Errors of capacity: no memory, no slot, no thread, a limit of a key, a service that shuts down."""

from __future__ import annotations

import math
from datetime import date, timedelta

from app.entities.key import ApiKey
from app.errors.base import ProxyError


class ModelDoesNotFit(ProxyError):
    """The model cannot fit on this machine with its settings, even if nothing else is loaded."""

    names_models = True
    status, code = 422, "model_does_not_fit"


class QueueFull(ProxyError):
    """Too many requests are waiting for this model."""

    status, type, code = 429, "rate_limit_error", "queue_full"
    retry_after = 2


class RateLimited(ProxyError):
    """The key has sent more requests than its `requests_per_minute`."""

    status, type, code = 429, "rate_limit_error", "rate_limited"

    def __init__(self, key: ApiKey, wait_seconds: float) -> None:
        self.retry_after = min(60, max(1, math.ceil(wait_seconds)))
        allowed = f"{key.requests_per_minute} requests a minute"
        super().__init__(f"the key {key.name!r} has used its {allowed}; try again in {self.retry_after} s")


class InsufficientQuota(ProxyError):
    """The key has used its `tokens_per_day`."""

    status, type, code = 429, "rate_limit_error", "insufficient_quota"
    should_retry = False

    def __init__(self, key: ApiKey, used_tokens: int, day: date) -> None:
        next_day = day + timedelta(days=1)
        super().__init__(
            f"the key {key.name!r} has used {used_tokens:,} of its {key.tokens_per_day:,} tokens of {day} (UTC); "
            f"it can be used again from {next_day} 00:00 UTC"
        )


class Overloaded(ProxyError):
    """The service has as many requests as it can hold."""

    status, code = 503, "overloaded"
    retry_after = 1


class Draining(ProxyError):
    """The service is shutting down and accepts no new requests."""

    status, code = 503, "draining"
    retry_after = 5


class InsufficientVram(ProxyError):
    """There is not enough memory now, and other programs or pinned models hold it."""

    names_models = True
    status, code = 503, "insufficient_vram"
    retry_after = 10


class NoGpu(ProxyError):
    """A GPU is missing or unusable, and the settings do not allow the CPU instead."""

    names_models = True
    status, code = 503, "no_gpu"
    retry_after = 10


class WaitTimeout(ProxyError):
    """The request waited for a slot for `scheduling.max_wait_seconds`."""

    status, code = 503, "wait_timeout"
    retry_after = 5


class NoEngine(ProxyError):
    """No llama-server was found: none is configured, on PATH or installed."""

    status, code = 503, "no_engine"
