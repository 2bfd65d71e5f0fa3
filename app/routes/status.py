"""The status page: the report of /health, for people."""

from __future__ import annotations

from flask import Blueprint, Response, make_response, render_template

from app.routes.assets import assets_version
from app.routes.health import health_report
from app.routes.incoming_request import current_request
from app.routes.visibility import visible_models
from app.services import services
from app.use_cases.reporting.model_list import model_list

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
    s = services()
    models = model_list(visible_models(current_request()), s.store.pool, (), None)
    page = make_response(
        render_template("status.html", report=health_report(), models=models["data"], static=_static())
    )
    page.headers["Content-Security-Policy"] = POLICY
    page.headers["Cache-Control"] = "no-store"  # a key's view, of a moment
    return page


def _static() -> str:
    """Relative, as all links of the page: it may be served below a path."""
    return f"static/{assets_version()}"
