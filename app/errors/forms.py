"""ErrorForm: how an API's clients expect errors. The status and the headers are the same in all of them."""

from __future__ import annotations

import json
from enum import Enum

from app.errors.base import ProxyError

ANTHROPIC_PATHS = ("/v1/messages", "/messages")
OLLAMA_PREFIX = "/api/"
# Anthropic's `error.type` by status (its API documentation, "Errors"); other 4xx and 5xx are as 400 and 500.
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    501: "invalid_request_error",  # as OpenAI's form has it: another request, or another model, is needed
    504: "timeout_error",
}


class ErrorForm(Enum):
    """The APIs that have one of their own, and OpenAI's for all other paths."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    OLLAMA = "ollama"

    def body(self, error: ProxyError) -> dict[str, object]:
        """The JSON of an answer without a stream."""
        match self:
            case ErrorForm.ANTHROPIC:
                return _anthropic_body(error.status, str(error))
            case ErrorForm.OLLAMA:
                return {"error": str(error)}
            case _:
                return dict(error.body)

    def event(self, error: ProxyError) -> bytes:
        """The error as the end of a stream that began with status 200: SDKs raise on it. No [DONE] follows."""
        return self._event_of(json.dumps(self.body(error)).encode())

    def engine_event(self, status: int, answer: bytes) -> bytes:
        """An engine's answer that is no stream, mostly an error, as the only event of a stream that has begun."""
        if self is ErrorForm.ANTHROPIC and status >= 400:
            answer = json.dumps(_anthropic_body(status, _message_of(answer))).encode()
        return self._event_of(b" ".join(answer.splitlines()))

    def _event_of(self, data: bytes) -> bytes:
        match self:
            case ErrorForm.ANTHROPIC:  # its SDKs raise on the event's name alone
                return b"event: error\ndata: " + data + b"\n\n"
            case ErrorForm.OLLAMA:  # a stream of JSON lines
                return data + b"\n"
            case _:
                return b"data: " + data + b"\n\n"


def error_form(path: str) -> ErrorForm:
    """That of the API at this path."""
    if path.startswith(ANTHROPIC_PATHS):
        return ErrorForm.ANTHROPIC
    return ErrorForm.OLLAMA if path.startswith(OLLAMA_PREFIX) else ErrorForm.OPENAI


def _anthropic_body(status: int, message: str) -> dict[str, object]:
    other = "invalid_request_error" if status < 500 else "api_error"
    return {"type": "error", "error": {"type": _ANTHROPIC_TYPES.get(status, other), "message": message}}


def _message_of(answer: bytes) -> str:
    """The message of llama-server's error object, else the whole text."""
    try:
        return str(json.loads(answer)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return answer.decode(errors="replace")
