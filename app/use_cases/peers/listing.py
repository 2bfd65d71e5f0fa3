"""A peer's list of models: what its /v1/models says, and when it is read next."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from app.entities.peer import PeerModel

LIST_SECONDS = 60.0
FIRST_PAUSE_SECONDS = 5.0
MAX_MODELS = 1000  # more are ignored
MAX_NAME_LENGTH = 400
_CONTEXT_NAMES = ("context_length", "max_model_len", "max_context_length", "context_window")
MAX_NUMBER = 2**53


class InvalidList(ValueError):
    """The answer is no list of models."""


def read_list(peer: str, body: bytes) -> tuple[PeerModel, ...]:
    """The models in the body of GET /v1/models. Raises InvalidList."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidList("its list of models is not JSON") from None
    entries = answer.get("data") if isinstance(answer, dict) else answer
    if not isinstance(entries, list):
        raise InvalidList('its list of models has no "data"')
    found = {model.id: model for model in _models(peer, entries)}
    return tuple(found.values())[:MAX_MODELS]


def list_pause_seconds(failures: int) -> float:
    """Until the list is read again, after so many failures in a row."""
    if not failures:
        return LIST_SECONDS
    return float(min(FIRST_PAUSE_SECONDS * 2 ** min(failures - 1, 10), LIST_SECONDS))


def _models(peer: str, entries: list[Any]) -> Iterator[PeerModel]:
    for entry in entries:
        if isinstance(entry, dict) and (name := _name(entry.get("id"))):
            yield PeerModel(peer, name, _number(entry, ("created",)), _number(entry, _CONTEXT_NAMES))


def _name(value: object) -> str:
    """ "" for what cannot be a name."""
    is_text = isinstance(value, str) and len(value) <= MAX_NAME_LENGTH
    return str(value) if is_text and value == str(value).strip() and str(value).isprintable() else ""


def _number(entry: Mapping[str, Any], names: tuple[str, ...]) -> int:
    """The first that is a count; 0 if none is."""
    values = (entry.get(name) for name in names)
    return next((value for value in values if type(value) is int and 0 < value < MAX_NUMBER), 0)
