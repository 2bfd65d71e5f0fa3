"""The errors that clients get from this service: one tree, each leaf with its HTTP status and code.

app/routes/error_response.py turns them into responses. A message says what happened, the numbers, and what to do next.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import ClassVar

from app.entities.key import ApiKey
from app.entities.placement import CPU
from app.entities.refusal import Reason, Refusal

MIB = 1024 * 1024


class ProxyError(Exception):
    """Any error of ours that a client sees. `retry_after`: seconds after which to try again."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    retry_after: int | None = None
    should_retry: ClassVar[bool] = True  # False: SDKs would repeat the request because of its status
    param: str | None = None
    names_models: ClassVar[bool] = False  # the message may name other models than the request's
    challenges: tuple[str, ...] = ()  # WWW-Authenticate, one header each: browsers do not parse a list

    def __init__(self, message: str, *, fields: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.fields = dict(fields or {})

    @property
    def body(self) -> dict[str, dict[str, object]]:
        error: dict[str, object] = {"message": str(self), "type": self.type, "param": self.param, "code": self.code}
        return {"error": error | self.fields}

    @property
    def event(self) -> bytes:
        """The error as the last event of a stream that began with status 200: SDKs raise on it. No [DONE] follows."""
        return b"data: " + json.dumps(self.body).encode() + b"\n\n"

    @property
    def headers(self) -> dict[str, str]:
        """Its response headers."""
        headers = {"x-llama-smart-proxy-error": "1"}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        elif not self.should_retry or self.status >= 500 or self.status in (408, 422):
            headers["x-should-retry"] = "false"  # SDKs would repeat these requests
        return headers


class InvalidConfiguration(ProxyError):
    """A reload found errors in the configuration; the earlier one stays in force."""

    status, type, code = 422, "invalid_request_error", "invalid_configuration"

    def __init__(self, errors: Sequence[str]) -> None:
        message = "the configuration was not reloaded, the earlier one stays in force:\n" + "\n".join(errors)
        super().__init__(message, fields={"errors": list(errors)})


# --- the request -----------------------------------------------------------------------------------


class InvalidRequest(ProxyError):
    """The request cannot be parsed: not a JSON object, an invalid field, ambiguous framing."""

    status, type, code = 400, "invalid_request_error", "invalid_request"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextLengthExceeded(ProxyError):
    """The request asks for more context (`num_ctx`) than its model has."""

    status, type, code = 400, "invalid_request_error", "context_length_exceeded"
    param = "num_ctx"

    def __init__(self, model: str, requested_tokens: int, available_tokens: int, is_loaded: bool) -> None:
        state = "is loaded with" if is_loaded else "is never loaded with more than"
        super().__init__(
            f"num_ctx {requested_tokens}: {model} {state} {available_tokens} tokens of context; reduce num_ctx, "
            "or raise the model's ctx_size"
        )


class MissingModel(ProxyError):
    """The request names no model."""

    status, type, code = 400, "invalid_request_error", "missing_model"
    param = "model"

    def __init__(self) -> None:
        super().__init__(
            'the request names no model: add "model" to the JSON body, or ?model= to a GET (/v1/models lists the names)'
        )


class InvalidApiKey(ProxyError):
    """Keys are configured, and the request has none of them."""

    status, type, code = 401, "authentication_error", "invalid_api_key"

    def __init__(self, has_credentials: bool, is_browser: bool = False, is_remembered: bool = False) -> None:
        problem = "unknown API key" if has_credentials else "this service requires an API key"
        if is_remembered:
            problem = "a password that a browser remembers does not count for a page of another site"
        super().__init__(f"{problem}; send Authorization: Bearer KEY, or x-api-key: KEY")
        # A browser prompts for a password only if Basic is offered.
        self.challenges = (
            ("Bearer", 'Basic realm="Llama Smart Proxy: any name, your key"') if is_browser else ("Bearer",)
        )


class NotAllowed(ProxyError):
    """The key may not do this, or the Host or Origin of a request without a key is not local."""

    status, type, code = 403, "permission_error", "not_allowed"


class ModelNotFound(ProxyError):
    """The catalogue has no such name."""

    status, type, code = 404, "invalid_request_error", "model_not_found"
    param = "model"

    def __init__(self, name: str) -> None:
        super().__init__(f"model {name[:200]!r} not found; GET /v1/models lists the names")


class InvalidModelFile(ProxyError):
    """The model's files are missing, truncated, damaged, or not a model; the message says which."""

    status, type, code = 422, "invalid_request_error", "invalid_model_file"
    param = "model"

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"model {name!r} cannot be served: {problem}")
        self.problem = problem  # without the name, for callers that have another


class RequestCrashesEngine(ProxyError):
    """The same request has ended its llama-server twice, the second time while it ran alone."""

    status, type, code = 422, "invalid_request_error", "request_crashes_engine"


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
    """The client closed its connection. Nobody reads this answer; its status is for log and metrics."""

    status, type, code = 499, "invalid_request_error", "client_left"


# --- memory, waiting and limits ------------------------------------------------------------------------


class ModelDoesNotFit(ProxyError):
    """The model cannot fit on this machine with its settings, even if nothing else is loaded."""

    names_models = True
    status, code = 422, "model_does_not_fit"


class QueueFull(ProxyError):
    """Too many requests are waiting for this model."""

    status, type, code = 429, "rate_limit_error", "queue_full"
    retry_after = 2


class RateLimited(ProxyError):
    """The key has sent more requests than its `requests_per_minute`."""

    status, type, code = 429, "rate_limit_error", "rate_limited"

    def __init__(self, key: ApiKey, wait_seconds: float) -> None:
        self.retry_after = min(60, max(1, math.ceil(wait_seconds)))
        allowed = f"{key.requests_per_minute} requests a minute"
        super().__init__(f"the key {key.name!r} has used its {allowed}; try again in {self.retry_after} s")


class InsufficientQuota(ProxyError):
    """The key has used its `tokens_per_day`."""

    status, type, code = 429, "rate_limit_error", "insufficient_quota"
    should_retry = False

    def __init__(self, key: ApiKey, used_tokens: int, day: date) -> None:
        next_day = day + timedelta(days=1)
        super().__init__(
            f"the key {key.name!r} has used {used_tokens:,} of its {key.tokens_per_day:,} tokens of {day} (UTC); "
            f"it can be used again from {next_day} 00:00 UTC"
        )


class Overloaded(ProxyError):
    """The service has as many requests as it can hold."""

    status, code = 503, "overloaded"
    retry_after = 1


class Draining(ProxyError):
    """The service is shutting down and accepts no new requests."""

    status, code = 503, "draining"
    retry_after = 5


class InsufficientVram(ProxyError):
    """There is not enough memory now, and other programs or pinned models hold it."""

    names_models = True
    status, code = 503, "insufficient_vram"
    retry_after = 10


class NoGpu(ProxyError):
    """A GPU is missing or unusable, and the settings do not allow the CPU instead."""

    names_models = True
    status, code = 503, "no_gpu"
    retry_after = 10


class WaitTimeout(ProxyError):
    """The request waited for a slot for `scheduling.max_wait_seconds`."""

    status, code = 503, "wait_timeout"
    retry_after = 5


class NoEngine(ProxyError):
    """No llama-server was found: none is configured, on PATH or installed."""

    status, code = 503, "no_engine"


# --- the engine ----------------------------------------------------------------------------------------


class SpawnFailed(ProxyError):
    """The engine's process could not be started: no file descriptor or process left, or its file is missing."""

    status, code = 503, "spawn_failed"
    retry_after = 5


class ModelLoadFailed(ProxyError):
    """The engine refused the model or crashed while loading it; its last lines are in the message."""

    status, code = 503, "model_load_failed"


class ModelUnloaded(ProxyError):
    """The model is not loaded: it was unloaded while loading, or the request is a GET, which loads nothing."""

    status, code = 503, "model_unloaded"
    retry_after = 2


class LoadTimeout(ProxyError):
    """The load made no progress for `scheduling.stall_timeout_seconds`."""

    status, code = 504, "load_timeout"


class UpstreamCrashed(ProxyError):
    """The engine ended during the request."""

    status, code = 502, "upstream_crashed"


class EngineGone(UpstreamCrashed):
    """The engine ended before it had read the request, which another one can answer."""


class BadUpstream(ProxyError):
    """The engine runs, but its answer is not valid HTTP, or was cut."""

    status, code = 502, "bad_upstream"


class UpstreamTimeout(ProxyError):
    """The engine's first byte, or the next one, did not arrive in time."""

    status, code = 504, "upstream_timeout"


# --- errors from the scheduler's refusals ---------------------------------------------------------------

_LEAVES: Mapping[Reason, tuple[type[ProxyError], str]] = {
    Reason.DRAINING: (Draining, "the service is shutting down; try again once it has restarted"),
    Reason.OVERLOADED: (Overloaded, "{detail}"),
    Reason.QUEUE_FULL: (QueueFull, "{model}: {detail}"),
    Reason.WAIT_TIMEOUT: (WaitTimeout, "{model}: {detail}"),
    Reason.INSUFFICIENT_MEMORY: (InsufficientVram, "{model}: {detail}; {advice}"),
    Reason.DOES_NOT_FIT: (ModelDoesNotFit, "{model}: {detail}; {advice}"),
    Reason.NO_GPU: (NoGpu, "{model}: {detail}"),
    Reason.UNLOADED: (ModelUnloaded, "{model} was unloaded while it was loading; send the request again to load it"),
    Reason.LOAD_FAILED: (ModelLoadFailed, "{model} could not be loaded: {detail}"),
    Reason.LOAD_TIMEOUT: (LoadTimeout, "{detail}"),
    Reason.SPAWN_FAILED: (SpawnFailed, "{model}: the engine could not be started: {detail}"),
    Reason.CRASHES_ENGINE: (
        RequestCrashesEngine,
        "{model}: this request has ended llama-server twice, the second time while it ran alone; change it: as "
        "it is, it is refused for another {detail}",
    ),
    Reason.CLIENT_DISCONNECTED: (ClientDisconnected, "the client closed its connection"),
}


def error_for(refusal: Refusal) -> ProxyError:
    """The error for a rejected request."""
    error = _error_for(refusal)
    if refusal.retry_after_seconds is not None:
        error.retry_after = min(60, max(1, math.ceil(refusal.retry_after_seconds)))
    return error


def _error_for(refusal: Refusal) -> ProxyError:
    leaf, text = _LEAVES[refusal.reason]
    nearest = refusal.suggestion
    fitting = f"it would fit with {nearest}" if nearest else "use a smaller quantization"
    where = "" if CPU in refusal.free_bytes else " (nvidia-smi lists the processes)"
    advice = f"free memory{where}, or: {fitting}" if refusal.reason is Reason.INSUFFICIENT_MEMORY else fitting
    needed = refusal.needed_bytes
    if not needed:  # it is not about bytes
        return leaf(text.removesuffix("; {advice}").format(model=refusal.model, detail=refusal.detail))
    message = text.format(model=refusal.model, detail=refusal.detail, advice=advice)
    devices = [
        {"uuid": device, "free_bytes": free, "needed_bytes": needed} for device, free in refusal.free_bytes.items()
    ]
    fields = {"needed_bytes": needed, "devices": devices}
    return leaf(message, fields=fields | ({"nearest": nearest} if nearest else {}))
