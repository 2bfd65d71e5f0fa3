"""What the scheduler and the routes go by, taken from the settings: at the start, and at each reload."""

from __future__ import annotations

from app.entities.launch import EngineFacts, EngineKind
from app.services import AccessPolicy, RequestSettings
from app.settings.schema import Settings
from app.use_cases.scheduling.limits import SchedulingLimits
from workers.agents import load_agents
from workers.engine.engines import Engines


def build_limits(settings: Settings, engines: Engines) -> SchedulingLimits:
    """What the scheduler goes by."""
    scheduling = settings.scheduling
    return SchedulingLimits(
        max_waiting=scheduling.max_waiting,
        max_waiting_per_model=scheduling.max_waiting_per_model,
        max_loaded=scheduling.max_loaded,
        max_wait_seconds=scheduling.max_wait_seconds,
        min_residency_seconds=scheduling.min_residency_seconds,
        ttl_seconds=scheduling.ttl_seconds,
        stall_timeout_seconds=scheduling.stall_timeout_seconds,
        hang_timeout_seconds=scheduling.hang_timeout_seconds,
        max_excess_memory_bytes=scheduling.max_excess_memory,
        silent_disconnect_notice_seconds=_silent_disconnect_notice_seconds(engines.service.facts),
        own_silent_notice_seconds={
            engine: _silent_disconnect_notice_seconds(state.facts) for engine, state in engines.states().items()
        },
        gpu_limits=settings.gpu_limits(),
        policy=settings.policy(),
        cpu_fallback=settings.gpu.cpu_fallback,
        gpu_idle_close_seconds=settings.gpu.idle_close_seconds,
    )


def build_request_settings(settings: Settings) -> RequestSettings:
    """What the routes go by. Raises ConfigurationError."""
    server, scheduling = settings.server, settings.scheduling
    return RequestSettings(
        access_policy=AccessPolicy(
            keys=settings.api_keys(),
            host=server.host,
            public_origin=server.public_origin,
            loopback_only=server.is_loopback and not server.allow_open,
            cors_origins=server.allowed_origins,
        ),
        max_loaded=scheduling.max_loaded,
        max_wait_seconds=scheduling.max_wait_seconds,
        media_urls=settings.upstream.allowed_media_urls(),
        load_on_any_path=settings.catalog.load_on_any_path,
        agents=load_agents(settings.agents),
        default_model=settings.catalog.default_model,
        list_aliases=settings.catalog.list_aliases,
        public_url=server.public_url,
        download_policy=settings.catalog.hugging_face.policy(),
        loading_comments=scheduling.loading_comments,
    )


def _silent_disconnect_notice_seconds(engine: EngineFacts | None) -> float:
    """llama-server checks once a second whether a connection was closed. The embedded engine (11549) never does while
    it works on other requests, but restarts quickly."""
    return 0.05 if engine is not None and engine.kind is EngineKind.EMBEDDED else 5.0
