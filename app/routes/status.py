"""The status page, complete without scripts; they keep it up to date by GET /status/stream."""

from __future__ import annotations

import json
import time
from typing import Any

from flask import Blueprint, Response, make_response, render_template
from flask import request as flask_request

from app.page.activity import decisions_view, header_view, hour_view, queue_view, requests_view
from app.page.downloads import downloads_view
from app.page.gpus import gpus_view
from app.page.models import model_rows
from app.page.peers import peers_view
from app.routes.assets import assets_version
from app.routes.connection import connection
from app.routes.incoming_request import current_request
from app.routes.plan import plan_report
from app.routes.status_report import MAX_AGE_SECONDS, history_report, status_text
from app.routes.visibility import is_limited

bp = Blueprint("status", __name__)

# The page loads nothing from other sites, and a model's name cannot become a script.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@bp.route("/", methods=["HEAD"])
def answer_probe() -> Response:
    """Claude Code, and Ollama's clients, ask by HEAD whether there is a server; they send no key."""
    return Response()


@bp.get("/")
def show_status() -> Response:
    page = make_response(render_template("status.html", static=_static(), **_view()))
    page.headers["Content-Security-Policy"] = POLICY
    page.headers["Cache-Control"] = "no-store"  # a key's view, of a moment
    return page


def _view() -> dict[str, Any]:
    request = current_request()
    status = json.loads(status_text(request, 0.0, MAX_AGE_SECONDS))
    return {
        "status": status,
        "sees_all": not is_limited(request.key),
        "connection": connection(request, flask_request.url_root),
        "header": header_view(status),
        "memory": gpus_view(status, history_report(request.services, time.monotonic())),
        "models": model_rows(status, plan_report(request)),
        "peers": peers_view(status),
        "downloads": downloads_view(status),
        "queue": queue_view(status),
        "hour": hour_view(status),
        "decisions": decisions_view(status),
        "requests": requests_view(status),
    }


def _static() -> str:
    """Relative, as all links of the page: it may be served below a path."""
    return f"static/{assets_version()}"
