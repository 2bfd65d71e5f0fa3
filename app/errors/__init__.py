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
from app.errors.downloads import DownloadFailed, ModelDownloading
from app.errors.engine import (
    AgentFailed,
    BadUpstream,
    EngineGone,
    LoadTimeout,
    ModelLoadFailed,
    ModelUnloaded,
    NotSupported,
    SpawnFailed,
    UpstreamCrashed,
    UpstreamTimeout,
)
from app.errors.forms import ErrorForm, error_form
from app.errors.peers import PeerLoop, PeerUnavailable
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
    UnsupportedEncoding,
    UriTooLong,
)

__all__ = [
    "AgentFailed",
    "BadUpstream",
    "ClientDisconnected",
    "ContextLengthExceeded",
    "DownloadFailed",
    "Draining",
    "EngineGone",
    "ErrorForm",
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
    "ModelDownloading",
    "ModelLoadFailed",
    "ModelNotFound",
    "ModelUnloaded",
    "NoEngine",
    "NoGpu",
    "NotAllowed",
    "NotFound",
    "NotSupported",
    "Overloaded",
    "PeerLoop",
    "PeerUnavailable",
    "ProxyError",
    "QueueFull",
    "RateLimited",
    "RequestCrashesEngine",
    "RequestTimeout",
    "RequestTooLarge",
    "SpawnFailed",
    "UnsupportedEncoding",
    "UpstreamCrashed",
    "UpstreamTimeout",
    "UriTooLong",
    "WaitTimeout",
    "error_for",
    "error_form",
]
