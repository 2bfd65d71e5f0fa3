"""Visibility: what a key may see. Models that it may not use do not exist for it: no list, number or text has them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from app.entities.configuration import ConfigurationState
from app.entities.key import ApiKey
from app.entities.model import Model
from app.entities.model_name import is_glob, similar_names
from app.entities.server import ServerState
from app.errors import InvalidModelFile, ModelNotFound, NotSupported, ProxyError
from app.routes.incoming_request import IncomingRequest
from app.routes.model_engine import engine_of
from app.routes.peer_models import may_use, model_at_peer, visible_peer_names
from app.use_cases.reporting.decision_record import DecisionRecord
from app.use_cases.reporting.engines import own_engine_problems
from app.use_cases.reporting.last_hour import ActivityCounts
from app.use_cases.reporting.model_status import EngineOf
from app.use_cases.reporting.recent_requests import RequestRecord
from app.use_cases.reporting.waiting import NOT_SHOWN
from app.use_cases.requirements import NO_REQUIREMENTS, Requirements, suitable
from app.use_cases.scheduling.pool_state import PoolState

AT_PEER = "{name} is a model of peer {peer}, where it is loaded: only the routes in docs/peers.md lead there"
HEADERS_SECONDS = 0.5  # that a list may spend on headers which have not been read yet


def find_model(request: IncomingRequest, name: str, requirements: Requirements = NO_REQUIREMENTS) -> Model:
    """The model of that name, if the request's key may use it; of a virtual name the one that should answer. Raises
    ModelNotFound."""
    return _found(request, name, requirements)[0]


def _found(request: IncomingRequest, name: str, requirements: Requirements) -> list[Model]:
    """The model of that name, or those of a virtual name, the one that should answer first. Raises ModelNotFound."""
    models = alternatives(request, name, requirements)
    return request.services.pool.by_availability(models) if models else [_known_or_new(request, name)]


def _known_or_new(request: IncomingRequest, name: str) -> Model:
    """An unknown name may be that of a new file. One that the key may not use takes as long: time must not tell.

    Raises NotSupported for a peer's model."""
    try:
        return known_model(request, name)
    except ModelNotFound:
        if model := model_at_peer(request, name):
            raise NotSupported(AT_PEER.format(name=model.name, peer=model.peer), param="model") from None
        request.services.catalog.rescan()
    try:
        return known_model(request, name)
    except ModelNotFound:
        raise ModelNotFound(name, near=similar_names(name, _visible_names(request))) from None


def known_model(request: IncomingRequest, name: str) -> Model:
    """The model of that name in the last scan, no virtual name's. Raises ModelNotFound.

    A name that the request's key may use by a glob is not taken away by another model's: it would tell that name.
    """
    return check_access(request, request.services.catalog.find(name, partial(may_use, request.key)), name)


def alternatives(request: IncomingRequest, name: str, requirements: Requirements = NO_REQUIREMENTS) -> list[Model]:
    """The models that a virtual name stands for and that could answer, of those that the request's key may use; none
    for any other name.

    A key that has a virtual name among its own has no right to its models.
    """
    models = _usable(request, request.services.catalog.members(name))
    if requirements.capability is None or len(models) < 2:
        return models
    if any(model.facts is None and not model.problem for model in models):  # soon after a start, or a new file
        models = request.services.catalog.read_headers(models, HEADERS_SECONDS)
    return suitable(models, requirements)


def _usable(request: IncomingRequest, names: Iterable[str]) -> list[Model]:
    models = []
    for name in names:
        with contextlib.suppress(ModelNotFound):  # a warning of the last scan
            if may_use(request.key, model := request.services.catalog.find(name)):
                models.append(model)
    return models


def virtual_names(request: IncomingRequest) -> dict[str, list[Model]]:
    """The virtual names with the models for which they stand, of those that the request's key may use; not those of
    which none can be served."""
    found = {name: alternatives(request, name) for name in request.services.catalog.virtual_names}
    return {name: models for name, models in found.items() if not all(model.problem for model in models)}


def default_model(request: IncomingRequest) -> str:
    """The name that a request without one means: catalog.default_model, else the only model that can be served, of
    those that its key may use; "" if there is none."""
    name = request.settings.default_model
    if name and (alternatives(request, name) or _usable(request, [name]) or model_at_peer(request, name)):
        return name
    servable = [model.name for model in visible_models(request) if not model.problem]
    return servable[0] if len(servable) == 1 else ""


def _visible_names(request: IncomingRequest) -> list[str]:
    names = [name for model in visible_models(request) for name in model.names if not is_glob(name)]
    return [*names, *virtual_names(request), *visible_peer_names(request)]


def check_access(request: IncomingRequest, model: Model, name: str) -> Model:
    """The model, if the request's key may use it. Raises ModelNotFound: nobody learns which names others have."""
    key = request.key
    assert key or not request.settings.access_policy.keys, "no route for a model is public where there are keys"
    if not may_use(key, model):
        raise ModelNotFound(name)
    return model


def servable_model(request: IncomingRequest, name: str, requirements: Requirements = NO_REQUIREMENTS) -> Model:
    """As find_model, and its header is valid. Raises InvalidModelFile too.

    The files of a model that is loaded are not read.
    """
    models = _found(request, name, requirements)
    for model in models[:-1]:
        with contextlib.suppress(InvalidModelFile):
            return _checked(request, model)
    return _checked(request, models[-1])


def _checked(request: IncomingRequest, model: Model) -> Model:
    if has_server(request, model) and not model.problem:
        return model
    return request.services.catalog.servable(model)


def has_server(request: IncomingRequest, model: Model) -> bool:
    """Whether it has a server, loading or loaded."""
    server = request.services.store.pool.server_of(model.name)
    return server is not None and server.state is not ServerState.STOPPING and server.model.is_served_as(model)


def visible_models(request: IncomingRequest) -> list[Model]:
    """The models that the request's key may use."""
    return [model for model in request.services.catalog.models() if may_use(request.key, model)]


def visible_names(request: IncomingRequest) -> set[str]:
    """The names that metrics and records have for the models that the request's key may use, peers' included."""
    return {*(model.name for model in visible_models(request)), *visible_peer_names(request)}


def described_models(request: IncomingRequest) -> list[Model]:
    """The same, with the facts of headers that were not read before, as many as HEADERS_SECONDS allow."""
    return request.services.catalog.read_headers(visible_models(request), HEADERS_SECONDS)


def visible_pool(request: IncomingRequest) -> PoolState:
    """The pool with the servers and waiting requests of those models."""
    pool, key = request.services.store.pool, request.key
    if not is_limited(key):
        return pool
    servers = tuple(server for server in pool.servers if may_use(key, server.model))
    return replace(pool, servers=servers, waiting=tuple(w for w in pool.waiting if may_use(key, w.model)))


def sees_paths(request: IncomingRequest) -> bool:
    """Whether it may see paths of this machine: that of an admin, or without keys."""
    return request.key is None or request.key.admin


def visible_engines(request: IncomingRequest) -> EngineOf:
    """The engine of a model, whose command lines have paths of this machine."""
    return partial(engine_of, request.services) if sees_paths(request) else lambda model: None


def visible_problems(request: IncomingRequest) -> list[str]:
    """What is wrong with models' own engines, and why the pinned models do not fit together, without names of other
    models."""
    services = request.services
    reasons = (*own_engine_problems(services.own_engines, services.store.gpus), *services.store.pins)
    return [visible_text(request, reason) for reason in reasons]


def visible_configuration(request: IncomingRequest) -> ConfigurationState:
    """The state of the configuration; its details, which name models, for an admin who sees all or without keys."""
    configuration, key = request.services.store.configuration, request.key
    sees_all = key is None or (key.admin and not key.is_limited)
    return configuration if sees_all else configuration.without_details()


def visible_decisions(request: IncomingRequest) -> tuple[DecisionRecord, ...]:
    """Decisions about those models, the newest last."""
    decisions = request.services.store.decisions
    if not is_limited(request.key):
        return decisions
    names = {model.name for model in visible_models(request)}
    return tuple(_without_others(request, record) for record in decisions if record.model in names)


def visible_records(request: IncomingRequest) -> tuple[RequestRecord, ...]:
    """The last requests to those models, the newest first."""
    records = request.services.activity.records()
    if not is_limited(request.key):
        return records
    names = visible_names(request)
    return tuple(record for record in records if record.model in names)


def visible_hour(request: IncomingRequest) -> list[ActivityCounts]:
    """What was counted of those models in the last hour."""
    hour = request.services.activity.last_hour()
    if not is_limited(request.key):
        return list(hour.values())
    names = visible_names(request)
    return [counts for model, counts in hour.items() if model in names]


def _without_others(request: IncomingRequest, record: DecisionRecord) -> DecisionRecord:
    decision = record.decision
    shown = replace(
        decision,
        reason=visible_text(request, decision.reason),
        considered=tuple(visible_text(request, text) for text in decision.considered),
    )
    return replace(record, decision=shown, evict=tuple(visible_text(request, name) for name in record.evict))


def visible_text(request: IncomingRequest, text: str) -> str:
    """The text without names of models that the request's key may not use."""
    if not is_limited(request.key):
        return text
    known = [*request.services.catalog.models(), *(server.model for server in request.services.store.pool.servers)]
    shown = {name: may_use(request.key, model) for model in known for name in model.names}
    # The longest first: a name may begin with another one.
    names = "|".join(re.escape(name) for name in sorted(shown, key=len, reverse=True) if name in text)
    if not names:
        return text
    return re.sub(rf"(?<!\w)(?:{names})(?!\w)", lambda match: match[0] if shown[match[0]] else NOT_SHOWN, text)


def shown_names(request: IncomingRequest, models: Sequence[Model]) -> Callable[[str], str]:
    """What a name of a model becomes for the request's key. `models`: those that it may use."""
    names = {model.name for model in models} if is_limited(request.key) else None
    return lambda name: name if names is None or name in names else NOT_SHOWN


def visible_error(request: IncomingRequest, error: ProxyError) -> ProxyError:
    """The error, its message without names of models that the request's key may not use."""
    if error.names_models and is_limited(request.key):
        error.args = (visible_text(request, str(error)),)
    return error


def is_limited(key: ApiKey | None) -> bool:
    """Whether there may be models that the key may not use."""
    return key is not None and key.is_limited
