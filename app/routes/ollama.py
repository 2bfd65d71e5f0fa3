"""Ollama's API, apart from what its model's server answers (ollama_exchange.py)."""

from __future__ import annotations

from flask import Blueprint, Response
from flask import request as flask_request

from app.routes.incoming_request import current_request
from app.routes.inference import InferenceResponse
from app.routes.ollama_exchange import respond_to_ollama
from app.use_cases.ollama.translation import Api

bp = Blueprint("ollama", __name__)


def forward_translated() -> Response:
    """Those inference requests that did not bypass Flask."""
    assert flask_request.url_rule is not None
    return InferenceResponse(current_request(), flask_request.url_rule.rule, respond_to_ollama)


for path in Api:
    bp.post(path)(forward_translated)
