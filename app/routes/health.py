"""Health: /health has all details, /livez whether the process serves, /readyz whether to send it requests."""

from __future__ import annotations

import time

from flask import Blueprint, Response, jsonify

from app.errors import Draining, NoEngine
from app.routes.authorization import is_anonymous
from app.routes.incoming_request import current_request
from app.routes.peer_models import visible_peers
from app.routes.visibility import sees_paths, visible_configuration, visible_pool, visible_problems
from app.services import services
from app.use_cases.reporting.peer_models import peers_report
from app.use_cases.reporting.report import health

bp = Blueprint("health", __name__)

ANONYMOUS_FIELDS = ("status", "degraded")


@bp.get("/health")
def show_health() -> Response:
    """The whole report; for anonymous requests, only whether the service works."""
    report = health_report()
    return jsonify({name: report[name] for name in ANONYMOUS_FIELDS} if is_anonymous(current_request()) else report)


def health_report() -> dict[str, object]:
    """The state of the service, with the servers of the models that the request's key may use."""
    s, request = services(), current_request()
    pool, problems, configuration = visible_pool(request), visible_problems(request), visible_configuration(request)
    engines = s.engine, s.engine_problem, s.own_engines if sees_paths(request) else None
    report = health(pool, s.store.gpus, problems, configuration, *engines, s.version, time.monotonic())
    return report | {"peers": peers_report(visible_peers(request))}


@bp.get("/livez")
def alive() -> Response:
    return jsonify(status="ok")


@bp.get("/readyz")
def ready() -> Response:
    s = services()
    if s.store.pool.draining:
        raise Draining("the service is shutting down")
    if s.engine is None:
        raise NoEngine(s.engine_problem)
    return jsonify(status="ok")
