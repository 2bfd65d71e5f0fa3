"""Plans: where models would be placed now, and who would be evicted for them. They load nothing and wake no GPU."""

from __future__ import annotations

import contextlib
from typing import Any

from flask import Blueprint, Response, jsonify

from app.errors import InvalidRequest
from app.ports import BodyFile
from app.request_body.plan_options import plan_options
from app.routes.authorization import may_unload
from app.routes.incoming_request import IncomingRequest, current_request
from app.routes.models import admitted
from app.routes.peer_models import peer_models_for_lists
from app.routes.requested_model import read_request
from app.routes.visibility import described_models, servable_model, shown_names, visible_pool, visible_text
from app.use_cases.reporting.decisions import decision_json
from app.use_cases.reporting.peer_models import plan_entries
from app.use_cases.reporting.plans import plan_list

bp = Blueprint("plan", __name__)


@bp.get("/plan")
def show_plans() -> Response:
    """Of all models that the key may use."""
    return jsonify(plan_report(current_request()))


def plan_report(request: IncomingRequest) -> dict[str, Any]:
    models, plans = described_models(request), request.services.plans
    pool, found = visible_pool(request), plans.of(models)
    report: dict[str, Any] = plan_list(models, found, pool, shown_names(request, models))
    report["models"] += plan_entries(peer_models_for_lists(request))
    return report


@bp.post("/plan")
def plan_one() -> Response:
    """As the `plan` command, on this machine as it is now."""
    request = current_request()
    with admitted(request.services):
        with contextlib.closing(request.receive_body()) as body:
            name = read_request(request, body, must_name=True).model
            if isinstance(body.data, BodyFile):
                raise InvalidRequest("the body of a request for a plan is too large")
            typed = plan_options(body.data, may_unload(request))
        answer = request.services.plans.plan(servable_model(request, name), typed)
        evict = [visible_text(request, name) for name in answer.evict]
        report: dict[str, Any] = decision_json(answer.decision, evict)
    report["reason"] = visible_text(request, answer.decision.reason)
    if notes := typed["args"].notes:
        report["notes"] = notes
    return jsonify({**report, **answer.machine, "elapsed_ms": answer.elapsed_ms})
