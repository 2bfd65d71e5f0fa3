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
    slots = all_slots(port, api_key)
    return None if slots is None else sum(bool(slot.get("is_processing")) for slot in slots)


def all_slots(port: int, api_key: str) -> list[dict[str, object]] | None:
    """What it says of each of its slots; None when it does not."""
    slots = _get(port, "/slots", api_key)[1]
    if not isinstance(slots, list) or not all(isinstance(slot, dict) for slot in slots):
        return None
    return slots


def slot_on_disk(
    port: int, api_key: str, slot: int, action: str, file_name: str, seconds: float
) -> tuple[int | None, object]:
    """Have a slot saved to, or restored from, a file in its --slot-save-path: status and JSON; (None, None) when there
    is no answer in time. `action` is save or restore. It answers nobody else meanwhile."""
    body = json.dumps({"filename": file_name}).encode()
    return _ask(port, "POST", f"/slots/{slot}?action={action}", api_key, body, seconds)


def _get(port: int, path: str, api_key: str | None) -> tuple[int | None, object]:
    return _ask(port, "GET", path, api_key)


def _ask(
    port: int,
    method: str,
    path: str,
    api_key: str | None,
    body: bytes | None = None,
    seconds: float = TIMEOUT_SECONDS,
) -> tuple[int | None, object]:
    """Status and JSON; (None, None) when there is no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        connection.request(method, path, body, headers | ({"Content-Type": "application/json"} if body else {}))
        response = connection.getresponse()
        return response.status, json.loads(response.read(ANSWER_BYTES))
    except (OSError, http.client.HTTPException, ValueError, RecursionError):
        return None, None
    finally:
        connection.close()
