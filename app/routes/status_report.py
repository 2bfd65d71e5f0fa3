"""GET /status: the state of the service for the status page, `ps` and `top`, as far as the key may see it."""

from __future__ import annotations

import json
import time
from typing import Any

from flask import Blueprint, Response, jsonify

from app.entities.memory import MemoryReading
from app.routes.authorization import may_unload
from app.routes.download_rules import may_pull, visible_downloads
from app.routes.incoming_request import IncomingRequest, current_request
from app.routes.peer_models import visible_peers
from app.routes.visibility import (
    is_limited,
    sees_paths,
    visible_configuration,
    visible_decisions,
    visible_hour,
    visible_pool,
    visible_problems,
    visible_records,
)
from app.services import Services, services
from app.use_cases.reporting.report import degraded_reasons
from app.use_cases.reporting.service_status import StatusFacts, service_status

TREND_SECONDS = 5
MAX_AGE_SECONDS = 1.0  # of a status in which nothing but ages has changed

bp = Blueprint("status_report", __name__)


@bp.get("/status")
def show_report() -> Response:
    return Response(status_text(current_request(), 0.0, MAX_AGE_SECONDS), content_type="application/json")


@bp.get("/status/history")
def show_history() -> Response:
    """Of the GPUs, for charts."""
    return jsonify(history_report(services(), time.monotonic()))


def history_report(services: Services, now: float) -> dict[str, Any]:
    return {"interval_seconds": TREND_SECONDS, "gpus": services.gpu_trends.trends(now)}


def status_text(request: IncomingRequest, min_age: float, max_age: float) -> bytes:
    """The status as JSON, as old as that at most; see SharedTexts."""
    services = request.services
    store = services.store
    services.engine_slots.view()
    facts = (
        *(store.pool, store.decisions, store.pins, store.configuration),
        *(services.engine, services.engine_problem, services.engine_slots.loads, services.engine_slots.drafts),
        services.activity.version,
        *(services.downloads.all, services.settings, services.own_engines, services.peers.names),
    )
    globs = request.key.models if is_limited(request.key) and request.key else None
    audience = globs, may_unload(request), sees_paths(request)

    def make() -> bytes:
        return json.dumps(service_status(status_facts(request)), separators=(",", ":")).encode()

    return services.status_texts.get(audience, facts, make, min_age, max_age)


def status_facts(request: IncomingRequest) -> StatusFacts:
    """What the request's key may see, now."""
    s, now = request.services, time.monotonic()
    visible, gpus = visible_pool(request), s.store.gpus.as_of(now)
    configuration = visible_configuration(request)
    reasons = degraded_reasons(visible, gpus, visible_problems(request), configuration, s.engine_problem, now)
    return StatusFacts(
        pool=s.store.pool if is_limited(request.key) else visible,
        visible=visible,
        memory=_memory(s),
        records=visible_records(request),
        loads=s.engine_slots.loads,
        drafts=s.engine_slots.drafts,
        hour=visible_hour(request),
        decisions=visible_decisions(request),
        downloads=visible_downloads(request),
        peers=visible_peers(request),
        reasons=tuple(reasons),
        engine=s.engine,
        version=s.version,
        sees_all=not is_limited(request.key),
        is_admin=may_unload(request),
        sees_paths=sees_paths(request),
        may_pull=may_pull(request),
        uptime_seconds=now - s.started_at,
        now=now,
        at=time.time(),
    )


def _memory(services: Services) -> MemoryReading | None:
    """The pool's own reading is as old as the last load."""
    try:
        return services.read_ram()
    except OSError:
        return services.store.pool.memory
