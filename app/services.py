"""Services: what the routes have of the machine, built once by workers/runtime.py, and how a request gets it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from flask import current_app

from app.entities.download_policy import DownloadPolicy
from app.entities.key import ApiKey
from app.entities.launch import EngineFacts, EngineState, OwnEngine
from app.entities.media_urls import DATA_ONLY, MediaUrls
from app.entities.memory import MemoryReading
from app.ports import (
    Admission,
    Agent,
    Bodies,
    Clients,
    Downloads,
    EngineLoads,
    Logs,
    Metrics,
    ModelCatalog,
    ModelPlans,
    Peers,
    Pins,
    RateLimits,
    RecentActivity,
    Refusals,
    Reloader,
    RequestLog,
    RequestRelay,
    ServerPool,
    SharedTexts,
    Snapshots,
    TokenCounts,
    Trends,
)

EXTENSION = "llama-smart-proxy"
CLIENT_SOCKET = "llama_smart_proxy.client_socket"  # in a WSGI environ: the ClientSocket of the request, or None
ANSWER_HEADERS = "llama_smart_proxy.answer_headers"  # there too: of errors that the worker answers


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """The settings that decide who may send which request."""

    keys: tuple[ApiKey, ...] = ()
    host: str = "127.0.0.1"  # server.host
    public_origin: str = ""  # of server.public_url, as browsers send it
    loopback_only: bool = True  # it listens for this machine alone; False also with server.allow_open
    cors_origins: frozenset[str] = frozenset()  # whose pages may use it, in lower case; "*": those of any

    @property
    def allows_any_page(self) -> bool:
        return "*" in self.cors_origins

    def allows_page(self, origin: str) -> bool:
        """Whether pages of an origin, as in a request's Origin header, may use the service."""
        return bool(origin) and (self.allows_any_page or origin.lower() in self.cors_origins)


@dataclass(frozen=True, slots=True)
class RequestSettings:
    """The settings that decide how requests are answered. A reload replaces them whole; a request keeps those it
    began with, so that it never meets two policies."""

    access_policy: AccessPolicy = AccessPolicy()
    max_loaded: int | None = None
    max_wait_seconds: float = 300.0
    media_urls: MediaUrls = DATA_ONLY
    load_on_any_path: bool = False  # a path that is not an inference route may load the model in its body
    agents: Mapping[str, Agent] = field(default_factory=dict)  # by the names of their commands
    default_model: str | None = None  # of requests that name none
    list_aliases: bool = False  # /v1/models has them as ids
    public_url: str | None = None  # the service's URL as browsers know it, if the Host header is another
    download_policy: DownloadPolicy = field(
        default_factory=DownloadPolicy
    )  # which models a request may have downloaded
    loading_comments: bool | str = True  # "reasoning_content": as reasoning, which chat clients display


@dataclass(slots=True)
class Services:
    """workers/runtime.py replaces `settings` and `own_engines` at a reload, and what is said of the engines when their
    files change; nothing else changes."""

    catalog: ModelCatalog
    downloads: Downloads
    store: Snapshots
    configuration: Reloader
    pool: ServerPool
    plans: ModelPlans
    pins: Pins
    relay: RequestRelay
    peers: Peers
    clients: Clients
    admission: Admission  # taken by inference requests, so that other requests always find a thread
    event_streams: Admission  # taken by streams of /models/sse
    download_waits: Admission  # taken by inference requests that wait for the download of their model
    viewers: Admission  # taken by streams of the status and of logs
    status_texts: SharedTexts
    rates: RateLimits
    tokens: TokenCounts
    bodies: Bodies
    access_log: RequestLog
    logs: Logs
    activity: RecentActivity
    gpu_trends: Trends
    engine_slots: EngineLoads
    refusals: Refusals
    gauges: Metrics
    engine: EngineFacts | None  # the last that worked; None: there is none
    engine_problem: str  # why there is none, or why the one that replaced it does not work, and what to do
    own_engines: Mapping[OwnEngine, EngineState]  # those that models have instead of it
    version: str
    started_at: float  # monotonic seconds
    read_ram: Callable[[], MemoryReading]  # of the machine; raises OSError
    settings: RequestSettings


def services() -> Services:
    """The services of the application that handles the current Flask request."""
    found: Services = current_app.extensions[EXTENSION]
    return found
