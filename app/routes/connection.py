"""What the status page says about reaching the service: its address, and snippets for clients."""

from __future__ import annotations

from dataclasses import dataclass

from app.entities.model import Model
from app.routes.incoming_request import IncomingRequest
from app.routes.visibility import default_model, visible_models
from app.use_cases.reporting.client_snippets import Snippet, client_snippets


@dataclass(frozen=True, slots=True)
class Connection:
    url: str  # of the service, without /v1
    is_public: bool  # from server.public_url: a page that was reached otherwise must not correct it
    snippets: tuple[Snippet, ...]


def connection(request: IncomingRequest, url_root: str) -> Connection:
    """`url_root`: the root URL as the request states it; a page that is served below a path corrects it."""
    public_url = request.settings.public_url
    url = (public_url or url_root).rstrip("/")
    needs_key = bool(request.settings.access_policy.keys)
    return Connection(url, bool(public_url), client_snippets(url, _model_for_chat(request), needs_key))


def _model_for_chat(request: IncomingRequest) -> str:
    """The default model, else a loaded one, else the first, of those that generate text; "" if there is none."""
    models = [model for model in visible_models(request) if not model.problem and _generates_text(model)]
    default, pool = default_model(request), request.services.store.pool
    named = [model.name for model in models if default in model.names]
    loaded = [model.name for model in models if pool.server_of(model.name)]
    return next(iter([*named, *loaded, *(model.name for model in models)]), "")


def _generates_text(model: Model) -> bool:
    """True as well where the header has not been read."""
    return model.capabilities is None or model.capabilities.completion
