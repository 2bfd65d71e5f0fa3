"""Health: /health tells everything, /livez that the process serves, /readyz whether to send it requests."""

from __future__ import annotations

import time

from flask import Blueprint, Response, jsonify

from app.errors import Draining, NoEngine
from app.routes.doors import key_of_request
from app.services import services
from app.use_cases.report import health

bp = Blueprint("health", __name__)


@bp.get("/health")
def show_health() -> Response:
    """Everything; where keys are configured, only whether it serves for who has none."""
    s = services()
    account = health(s.store.pool, s.engine, s.engine_problem, s.version, time.monotonic())
    if s.doors.keys and key_of_request() is None:
        account = {name: account[name] for name in ("status", "degraded")}
    return jsonify(account)


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
