"""Which requests may load their model, and how a request that may not is answered where it is not loaded."""

from __future__ import annotations

from app.entities.model import Model
from app.errors import ModelUnloaded, ProxyError
from app.ports import Address
from app.routes.error_response import no_such_path
from app.routes.incoming_request import IncomingRequest
from app.routes.paths import OTHER_PATH
from app.routes.visibility import find_model, has_server, servable_model
from app.use_cases.requirements import NO_REQUIREMENTS, Requirements

LOADS_NOTHING = ("GET", "HEAD")
AUTOLOAD = {"true", "1", ""}  # what llama.cpp's router takes for yes; without the parameter, it loads


def may_load(request: IncomingRequest, route: str) -> bool:
    """Whether the request may have its model loaded, and others evicted for it."""
    if request.method in LOADS_NOTHING or (route == OTHER_PATH and not request.settings.load_on_any_path):
        return False
    return AUTOLOAD.issuperset(request.arguments("autoload"))


def model_for(
    request: IncomingRequest, route: str, name: str, loads: bool, requirements: Requirements = NO_REQUIREMENTS
) -> Model:
    """The model of that name. Raises ModelNotFound and InvalidModelFile, and ModelUnloaded or NotFound if it may not
    be loaded and is not."""
    if loads or request.method in LOADS_NOTHING:
        return servable_model(request, name, requirements)
    model = find_model(request, name, requirements)
    if not has_server(request, model):
        raise _unloaded(request, route, model)
    return model


def loaded_address(request: IncomingRequest, route: str, model: Model) -> Address:
    """Where the model answers a GET, which takes no slot."""
    if address := request.services.pool.address(model):
        return address
    raise _unloaded(request, route, model)


def _unloaded(request: IncomingRequest, route: str, model: Model) -> ProxyError:
    """The error for a request that may not load its model."""
    if route == OTHER_PATH:
        return no_such_path(
            request,
            f"paths other than those of docs/api.md reach only a loaded model, and {model.name} is not loaded; "
            "POST /models/load loads it, and catalog.load_on_any_path: true does so for any path",
        )
    reason = "a GET loads nothing" if request.method in LOADS_NOTHING else "autoload=false forbids loading it"
    return ModelUnloaded(f"{model.name} is not loaded, and {reason}; POST /models/load loads it")
