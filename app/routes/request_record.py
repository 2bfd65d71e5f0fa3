"""What is remembered of a request once it has ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from app.use_cases.reporting.recent_requests import RequestRecord, tokens_per_second

if TYPE_CHECKING:
    from app.routes.exchange import Exchange


def request_record(exchange: Exchange, status: int, seconds: float) -> RequestRecord:
    """`seconds`: from its arrival to its end."""
    usage, key = exchange.usage, exchange.request.key
    generation_seconds = usage.generation_seconds
    if generation_seconds is None and exchange.first_byte_seconds and exchange.answer and exchange.answer.is_stream:
        generation_seconds = seconds - exchange.first_byte_seconds
    return RequestRecord(
        at=time.time(),
        model=exchange.model_name or None,
        path=exchange.route,
        status=status,
        wait_seconds=exchange.waited_seconds if exchange.is_sent else None,
        seconds=seconds,
        first_byte_seconds=exchange.first_byte_seconds,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        tokens_per_second=tokens_per_second(usage.completion_tokens, generation_seconds),
        key=key.name if key else None,
    )
