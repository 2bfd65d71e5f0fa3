"""The errors a client can get from us: one tree, each leaf with the HTTP status and code it deserves.

app/web.py alone turns them into JSON (OpenAI's error object). Messages say what happened, the numbers, and what
to do next.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import ClassVar

from app.entities.key import ApiKey
from app.entities.placement import CPU
from app.entities.refusal import Reason, Refusal

MIB = 1024 * 1024


class ProxyError(Exception):
    """Any error of ours that a client sees. `retry_after`: seconds after which trying again makes sense."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    retry_after: int | None = None
    param: str | None = None
    challenges: tuple[str, ...] = ()  # WWW-Authenticate, a header line each: browsers read no list

    def __init__(self, message: str, *, fields: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.fields = dict(fields or {})

    @property
    def body(self) -> dict[str, dict[str, object]]:
        error: dict[str, object] = {"message": str(self), "type": self.type, "param": self.param, "code": self.code}
        return {"error": error | self.fields}

    @property
    def event(self) -> bytes:
        """The same in a stream whose head went out as a success: SDKs raise on it. No [DONE] follows."""
        return b"data: " + json.dumps(self.body).encode() + b"\n\n"

    @property
    def headers(self) -> dict[str, str]:
        """The response headers that go with it."""
        headers = {"x-llama-smart-proxy-error": "1"}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        elif self.status >= 500 or self.status in (408, 422):
            headers["x-should-retry"] = "false"  # SDKs repeat these by themselves otherwise
        return headers


# --- the client's doing ---------------------------------------------------------------------------


class InvalidRequest(ProxyError):
    """The request cannot be read: no JSON object, a bad field, ambiguous framing."""

    status, type, code = 400, "invalid_request_error", "invalid_request"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextLengthExceeded(ProxyError):
    """The request wants more context (`num_ctx`) than its model has."""

    status, type, code = 400, "invalid_request_error", "context_length_exceeded"
    param = "num_ctx"

    def __init__(self, model: str, wanted_tokens: int, has_tokens: int, is_loaded: bool) -> None:
        has = "is loaded with" if is_loaded else "is never loaded with more than"
        super().__init__(
            f"num_ctx {wanted_tokens}: {model} {has} {has_tokens} tokens of context: ask for no more, or set a larger "
            "ctx_size for it"
        )


class MissingModel(ProxyError):
    """The request does not say which model it is for."""

    status, type, code = 400, "invalid_request_error", "missing_model"
    param = "model"

    def __init__(self) -> None:
        super().__init__(
            'the request names no model: add "model" to the JSON body, or ?model= to a GET (/v1/models lists the names)'
        )


class InvalidApiKey(ProxyError):
    """Keys are configured, and the request has none or one that is not among them."""

    status, type, code = 401, "authentication_error", "invalid_api_key"

    def __init__(self, has_offer: bool, by_browser: bool = False) -> None:
        what = "the key is not one of this service's" if has_offer else "this service wants a key"
        super().__init__(f"{what}: send Authorization: Bearer KEY, or x-api-key: KEY")
        # A browser asks its user for a password only where Basic is offered.
        self.challenges = (
            ("Bearer", 'Basic realm="Llama Smart Proxy: any name, your key"') if by_browser else ("Bearer",)
        )


class NotAllowed(ProxyError):
    """The key, or the address that was asked under, may not do this."""

    status, type, code = 403, "permission_error", "not_allowed"


class ModelNotFound(ProxyError):
    """The catalogue has no such name."""

    status, type, code = 404, "invalid_request_error", "model_not_found"
    param = "model"

    def __init__(self, name: str) -> None:
        super().__init__(f"no model {name[:200]!r} here; GET /v1/models lists the names")


class InvalidModelFile(ProxyError):
    """The model's files are missing, cut off, damaged or no model's; the message says what is wrong with them."""

    status, type, code = 422, "invalid_request_error", "invalid_model_file"
    param = "model"

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"model {name!r} cannot be served: {problem}")
        self.problem = problem  # for who knows the model by another name


class NotFound(ProxyError):
    """No such path."""

    status, type, code = 404, "invalid_request_error", "not_found"


class MethodNotAllowed(ProxyError):
    """The path exists, the method does not."""

    status, type, code = 405, "invalid_request_error", "method_not_allowed"


class RequestTimeout(ProxyError):
    """The client did not send its whole request in time."""

    status, type, code = 408, "invalid_request_error", "request_timeout"


class RequestTooLarge(ProxyError):
    """The body is larger than `server.max_body`."""

    status, type, code = 413, "invalid_request_error", "request_too_large"


class UriTooLong(ProxyError):
    """The request line is longer than the server reads."""

    status, type, code = 414, "invalid_request_error", "invalid_request"


class ExpectationFailed(ProxyError):
    """An `Expect` header asks for something other than 100-continue."""

    status, type, code = 417, "invalid_request_error", "invalid_request"


class HeadTooLarge(ProxyError):
    """The headers are larger than the server reads."""

    status, type, code = 431, "invalid_request_error", "invalid_request"


class ClientDisconnected(ProxyError):
    """The client closed its connection; nobody reads this answer, the log shows its status."""

    status, type, code = 499, "invalid_request_error", "client_left"


# --- room, time and order ----------------------------------------------------------------------------


class ModelDoesNotFit(ProxyError):
    """The model cannot fit on this machine under its settings, however empty the machine."""

    status, code = 422, "model_does_not_fit"


class QueueFull(ProxyError):
    """Too many requests wait for this model already."""

    status, type, code = 429, "rate_limit_error", "queue_full"
    retry_after = 2


class RateLimited(ProxyError):
    """The key has asked more often than its `requests_per_minute`."""

    status, type, code = 429, "rate_limit_error", "rate_limited"

    def __init__(self, key: ApiKey, wait_seconds: float) -> None:
        self.retry_after = min(60, max(1, math.ceil(wait_seconds)))
        allowed = f"{key.requests_per_minute} requests a minute"
        super().__init__(f"the key {key.name!r} has used up its {allowed}; again in {self.retry_after} s")


class Overloaded(ProxyError):
    """The whole service has as much as it can hold."""

    status, code = 503, "overloaded"
    retry_after = 1


class Draining(ProxyError):
    """The service is ending and takes nothing new."""

    status, code = 503, "draining"
    retry_after = 5


class InsufficientVram(ProxyError):
    """There is no room now, and what holds it is not ours to stop."""

    status, code = 503, "insufficient_vram"
    retry_after = 10


class NoGpu(ProxyError):
    """A GPU should be there and is not, or cannot be used, and the settings do not let the model run on the CPU."""

    status, code = 503, "no_gpu"
    retry_after = 10


class WaitTimeout(ProxyError):
    """The request waited for a server as long as it may."""

    status, code = 503, "wait_timeout"
    retry_after = 5


class NoEngine(ProxyError):
    """There is no llama-server to run: none configured, on PATH or installed."""

    status, code = 503, "no_engine"


# --- the engine's doing --------------------------------------------------------------------------------


class SpawnFailed(ProxyError):
    """The engine's process could not be made: no file descriptor or process left, or the file is gone."""

    status, code = 503, "spawn_failed"
    retry_after = 5


class ModelLoadFailed(ProxyError):
    """The engine refused the model or crashed while loading it; its last lines are in the message."""

    status, code = 503, "model_load_failed"


class ModelUnloaded(ProxyError):
    """The model is not loaded: it was told to go while it was loading, or the request is one that loads nothing."""

    status, code = 503, "model_unloaded"
    retry_after = 2


class LoadTimeout(ProxyError):
    """The load showed no progress for too long."""

    status, code = 504, "load_timeout"


class UpstreamCrashed(ProxyError):
    """The engine died before the first byte of its answer."""

    status, code = 502, "upstream_crashed"


class BadUpstream(ProxyError):
    """The engine answered something that is not HTTP."""

    status, code = 502, "bad_upstream"


class UpstreamTimeout(ProxyError):
    """The engine's first byte, or the next one, did not come in time."""

    status, code = 504, "upstream_timeout"


# --- from the scheduler's values to errors -------------------------------------------------------------

_LEAVES: Mapping[Reason, tuple[type[ProxyError], str]] = {
    Reason.DRAINING: (Draining, "the service is shutting down"),
    Reason.OVERLOADED: (Overloaded, "{detail}"),
    Reason.QUEUE_FULL: (QueueFull, "{model}: {detail}"),
    Reason.WAIT_TIMEOUT: (WaitTimeout, "{model}: {detail}"),
    Reason.INSUFFICIENT_MEMORY: (InsufficientVram, "{model}: {detail}; {advice}"),
    Reason.DOES_NOT_FIT: (ModelDoesNotFit, "{model}: {detail}; {advice}"),
    Reason.NO_GPU: (NoGpu, "{model}: {detail}"),
    Reason.UNLOADED: (ModelUnloaded, "{model} was told to unload while it was loading; ask again to load it"),
    Reason.LOAD_FAILED: (ModelLoadFailed, "{model} could not be loaded: {detail}"),
    Reason.LOAD_TIMEOUT: (LoadTimeout, "{detail}"),
    Reason.SPAWN_FAILED: (SpawnFailed, "{model}: the engine could not be started: {detail}"),
    Reason.CLIENT_DISCONNECTED: (ClientDisconnected, "the client closed its connection"),
}


def error_for(refusal: Refusal) -> ProxyError:
    """The error a refused request is answered with."""
    made = _error_for(refusal)
    if refusal.retry_after_seconds is not None:
        made.retry_after = min(60, max(1, math.ceil(refusal.retry_after_seconds)))
    return made


def _error_for(refusal: Refusal) -> ProxyError:
    leaf, text = _LEAVES[refusal.reason]
    nearest = refusal.nearest
    fitting = f"it would fit with {nearest}" if nearest else "use a smaller quantization"
    where = "" if CPU in refusal.free_bytes else " (nvidia-smi shows who holds it)"
    advice = f"free some memory{where}, or: {fitting}" if refusal.reason is Reason.INSUFFICIENT_MEMORY else fitting
    needed = refusal.needed_bytes
    if not needed:  # it is not about bytes
        return leaf(text.removesuffix("; {advice}").format(model=refusal.model, detail=refusal.detail))
    message = text.format(model=refusal.model, detail=refusal.detail, advice=advice)
    devices = [
        {"uuid": device, "free_bytes": free, "needed_bytes": needed} for device, free in refusal.free_bytes.items()
    ]
    fields = {"needed_bytes": needed, "devices": devices}
    return leaf(message, fields=fields | ({"nearest": nearest} if nearest else {}))
