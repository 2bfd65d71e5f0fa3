"""The errors that clients get from this service: one tree, each leaf with its HTTP status and code.

app/routes/error_response.py turns them into responses. A message says what happened, the numbers, and what to do next.
Other packages import the names below from here.
"""

from app.errors.base import ProxyError
from app.errors.capacity import (
    Draining,
    InsufficientQuota,
    InsufficientVram,
    ModelDoesNotFit,
    NoEngine,
    NoGpu,
    Overloaded,
    QueueFull,
    RateLimited,
    WaitTimeout,
)
from app.errors.engine import (
    BadUpstream,
    EngineGone,
    LoadTimeout,
    ModelLoadFailed,
    ModelUnloaded,
    SpawnFailed,
    UpstreamCrashed,
    UpstreamTimeout,
)
from app.errors.refusal import error_for
from app.errors.request import (
    ClientDisconnected,
    ContextLengthExceeded,
    ExpectationFailed,
    HeadTooLarge,
    InvalidApiKey,
    InvalidConfiguration,
    InvalidModelFile,
    InvalidRequest,
    MethodNotAllowed,
    MissingModel,
    ModelNotFound,
    NotAllowed,
    NotFound,
    RequestCrashesEngine,
    RequestTimeout,
    RequestTooLarge,
    UriTooLong,
)

__all__ = [
    "BadUpstream",
    "ClientDisconnected",
    "ContextLengthExceeded",
    "Draining",
    "EngineGone",
    "ExpectationFailed",
    "HeadTooLarge",
    "InsufficientQuota",
    "InsufficientVram",
    "InvalidApiKey",
    "InvalidConfiguration",
    "InvalidModelFile",
    "InvalidRequest",
    "LoadTimeout",
    "MethodNotAllowed",
    "MissingModel",
    "ModelDoesNotFit",
    "ModelLoadFailed",
    "ModelNotFound",
    "ModelUnloaded",
    "NoEngine",
    "NoGpu",
    "NotAllowed",
    "NotFound",
    "Overloaded",
    "ProxyError",
    "QueueFull",
    "RateLimited",
    "RequestCrashesEngine",
    "RequestTimeout",
    "RequestTooLarge",
    "SpawnFailed",
    "UpstreamCrashed",
    "UpstreamTimeout",
    "UriTooLong",
    "WaitTimeout",
    "error_for",
]
