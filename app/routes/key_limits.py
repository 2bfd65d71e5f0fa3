"""What an API key limits: its requests per minute, its tokens per day, and how soon it may have a model unloaded."""

from __future__ import annotations

from app.entities.key import ApiKey
from app.errors import InsufficientQuota, RateLimited
from app.routes.authorization import may_unload
from app.routes.incoming_request import IncomingRequest
from app.services import Services


def take_request(services: Services, key: ApiKey) -> None:
    """Count one request of the key. Raises RateLimited or InsufficientQuota."""
    if wait_seconds := services.rates.take(key):
        raise RateLimited(key, wait_seconds)
    if key.tokens_per_day is not None:
        used_tokens, day = services.tokens.used(key.name)
        if used_tokens >= key.tokens_per_day:
            raise InsufficientQuota(key, used_tokens, day)


def permitted_keep_alive(request: IncomingRequest, requested_seconds: float | None, ttl_seconds: float) -> float | None:
    """How long the request keeps its model loaded. None: as long as without its option, `ttl_seconds`.

    Who may not unload models may not have them unloaded sooner either.
    """
    if requested_seconds is None or may_unload(request):
        return requested_seconds
    return requested_seconds if requested_seconds >= ttl_seconds else None
