"""Placement decisions and their reasons, the newest first."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify
from flask import request as flask_request

from app.routes.incoming_request import current_request
from app.routes.visibility import visible_decisions
from app.use_cases.reporting.decisions import decision_list

bp = Blueprint("decisions", __name__)


@bp.get("/decisions")
def show_decisions() -> Response:
    """`?model=NAME`: only those about this model."""
    name = flask_request.args.get("model")
    decisions = visible_decisions(current_request())
    return jsonify(decision_list(decision for decision in decisions if name in (None, decision.model)))
