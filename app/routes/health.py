"""Health: /health tells everything, /livez that the process serves, /readyz whether to send it requests."""

from __future__ import annotations

import time
from typing import Any

from flask import Blueprint, Response, jsonify

from app.errors import Draining, NoEngine
from app.routes.doors import key_of_request
from app.services import services
from app.use_cases.report import health

bp = Blueprint("health", __name__)


@bp.get("/health")
def show_health() -> Response:
    """Everything; where keys are configured, only whether it serves for who has none."""
    told = account()
    if services().doors.keys and key_of_request() is None:
        told = {name: told[name] for name in ("status", "degraded")}
    return jsonify(told)


def account() -> dict[str, Any]:
    """How the system is, with the servers of the models that the request's key may use."""
    s, key = services(), key_of_request()
    told: dict[str, Any] = health(s.store.pool, s.engine, s.engine_problem, s.version, time.monotonic())
    servers = [server for server in told["servers"] if key is None or key.allows(server["model_id"])]
    return told | {"servers": servers}


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
