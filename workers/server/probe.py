"""The proxy's own requests to a llama-server, on its loopback port. No answer is a result, never an exception."""

from __future__ import annotations

import http.client
import json

TIMEOUT_SECONDS = 0.5
MAX_ANSWER_BYTES = 4 * 1024 * 1024  # /slots includes the prompts


def is_loaded(port: int, api_key: str) -> bool:
    """Whether it has loaded its model."""
    return _get(port, "/health", api_key)[0] == 200


def requires_key(port: int) -> bool:
    """Whether it rejects requests without its key. Not tested with /v1/models, which is public in builds up to mid
    2026."""
    return _get(port, "/props", None)[0] == 401


def count_busy_slots(port: int, api_key: str) -> int | None:
    """Its slots that are processing a request; None if it does not answer."""
    slots = read_slots(port, api_key)
    return None if slots is None else sum(bool(slot.get("is_processing")) for slot in slots)


def read_slots(port: int, api_key: str) -> list[dict[str, object]] | None:
    """Its /slots; None if it does not answer."""
    slots = _get(port, "/slots", api_key)[1]
    if not isinstance(slots, list) or not all(isinstance(slot, dict) for slot in slots):
        return None
    return slots


def save_or_restore_slot(
    port: int, api_key: str, slot: int, action: str, file_name: str, seconds: float
) -> tuple[int | None, object]:
    """Save a slot to, or restore it from, a file in --slot-save-path; `action` is save or restore.

    Returns status and JSON, or (None, None) without an answer within `seconds`. llama-server answers no other request
    in the meantime.
    """
    body = json.dumps({"filename": file_name}).encode()
    return _request(port, "POST", f"/slots/{slot}?action={action}", api_key, body, seconds)


def _get(port: int, path: str, api_key: str | None) -> tuple[int | None, object]:
    return _request(port, "GET", path, api_key)


def _request(
    port: int,
    method: str,
    path: str,
    api_key: str | None,
    body: bytes | None = None,
    seconds: float = TIMEOUT_SECONDS,
) -> tuple[int | None, object]:
    """Status and JSON; (None, None) without an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        connection.request(method, path, body, headers | ({"Content-Type": "application/json"} if body else {}))
        response = connection.getresponse()
        return response.status, json.loads(response.read(MAX_ANSWER_BYTES))
    except (OSError, http.client.HTTPException, ValueError, RecursionError):
        return None, None
    finally:
        connection.close()
