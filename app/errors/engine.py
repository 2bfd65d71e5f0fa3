"""Errors of the engine: it does not start, load, answer, or answer in time."""

from __future__ import annotations

from app.errors.base import ProxyError


class SpawnFailed(ProxyError):
    """The engine's process could not be started: no file descriptor or process left, or its file is missing."""

    status, code = 503, "spawn_failed"
    retry_after = 5


class ModelLoadFailed(ProxyError):
    """The engine refused the model or crashed while loading it; its last lines are in the message."""

    status, code = 503, "model_load_failed"


class ModelUnloaded(ProxyError):
    """The model is not loaded: it was unloaded meanwhile, or the request may not load it."""

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


class NotSupported(ProxyError):
    """What the request asks for does not exist here, or the model's engine lacks it."""

    status, type, code = 501, "invalid_request_error", "not_supported"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class AgentFailed(ProxyError):
    """An agent of the request raised an exception, or returned nothing that could be used."""

    status, code = 500, "agent_failed"


class UpstreamTimeout(ProxyError):
    """The engine's first byte, or the next one, did not arrive in time."""

    status, code = 504, "upstream_timeout"
