"""What we ask a llama-server ourselves, on its loopback port."""

from __future__ import annotations

import http.client
import json

TIMEOUT_SECONDS = 0.5
ANSWER_BYTES = 4 * 1024 * 1024  # /slots shows the prompts


def is_loaded(port: int, api_key: str) -> bool:
    """Whether it has loaded its model."""
    return _get(port, "/health", api_key)[0] == 200


def wants_its_key(port: int) -> bool:
    """Whether it refuses those who do not have its key. Not asked by /v1/models: builds up to mid 2026 show that."""
    return _get(port, "/props", None)[0] == 401


def busy_slots(port: int, api_key: str) -> int | None:
    """How many of its slots are working; None when it does not say."""
    slots = _get(port, "/slots", api_key)[1]
    if not isinstance(slots, list) or not all(isinstance(slot, dict) for slot in slots):
        return None
    return sum(bool(slot.get("is_processing")) for slot in slots)


def _get(port: int, path: str, api_key: str | None) -> tuple[int | None, object]:
    """Status and JSON of a GET; (None, None) when there is no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {api_key}"} if api_key else {})
        response = connection.getresponse()
        return response.status, json.loads(response.read(ANSWER_BYTES))
    except (OSError, http.client.HTTPException, ValueError, RecursionError):
        return None, None
    finally:
        connection.close()
