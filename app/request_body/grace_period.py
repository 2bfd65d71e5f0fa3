"""How long an order to unload a model waits for the model's running requests, as its body says."""

from __future__ import annotations

from math import inf

from app.entities.media_urls import DATA_ONLY
from app.errors import InvalidRequest
from app.request_body.buffer import Buffer
from app.request_body.json_body import read_json


def grace_seconds(body: Buffer) -> float:
    """`wait_seconds`; 0 with `force`; infinity without either. Raises InvalidRequest."""
    fields = dict(read_json(body, DATA_ONLY, may_be_a_list=False)) if len(body) else {}
    force, seconds = fields.get("force"), fields.get("wait_seconds")
    if not isinstance(force, bool | None):
        raise InvalidRequest("force must be true or false", param="force")
    if seconds is None:
        return 0.0 if force else inf
    if not isinstance(seconds, float) or not 0 <= seconds < inf:
        raise InvalidRequest("wait_seconds must be a number of seconds", param="wait_seconds")
    return 0.0 if force else seconds
