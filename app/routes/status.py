"""The status page: the same account as /health, for people."""

from __future__ import annotations

from flask import Blueprint, Response, make_response, render_template

from app.routes.authorization import visible_models
from app.routes.health import account
from app.routes.incoming_request import current_request
from app.services import services
from app.use_cases.reporting.report import model_list

bp = Blueprint("status", __name__)

# Nothing on the page comes from elsewhere, and model names cannot become scripts.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


@bp.get("/")
def show_status() -> Response:
    s = services()
    models = model_list(visible_models(current_request()), s.store.pool)
    page = make_response(render_template("status.html", account=account(), models=models["data"]))
    page.headers["Content-Security-Policy"] = POLICY
    return page
