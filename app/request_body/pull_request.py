"""The body of POST /models/pull."""

from __future__ import annotations

from dataclasses import dataclass

from app.entities.media_urls import ANY_MEDIA
from app.errors import InvalidRequest
from app.request_body.buffer import Buffer
from app.request_body.content import MAX_NAME
from app.request_body.json_body import read_json


@dataclass(frozen=True, slots=True)
class PullRequest:
    """Which model to download, or to plan for, and how to answer."""

    name: str  # as the client wrote it
    streams: bool = False  # the answer is the progress, line by line
    plans: bool = False  # nothing is downloaded; the answer says what would fit


def pull_request(body: Buffer) -> PullRequest:
    """Raises InvalidRequest."""
    fields = dict(read_json(body, ANY_MEDIA, may_be_a_list=False))  # the name may be a URL
    name = fields.get("model")
    if not isinstance(name, str) or not 0 < len(name.strip()) <= MAX_NAME:
        raise InvalidRequest(f'"model" must be a string of 1 to {MAX_NAME} characters', param="model")
    for field in ("stream", "plan"):
        if not isinstance(fields.get(field), bool | None):
            raise InvalidRequest(f"{field} must be true or false", param=field)
    return PullRequest(name.strip(), bool(fields.get("stream")), bool(fields.get("plan")))
