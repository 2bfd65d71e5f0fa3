"""Which models a request may have downloaded, and which downloads its key may see.

A name in a request is data: only what is parsed as the name of a repository reaches the downloads, and only if the key
may use a model of that name.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

from app.entities.download import Download
from app.entities.download_policy import DownloadRule
from app.entities.key import ApiKey
from app.entities.model import Model
from app.entities.repository import RepositoryName
from app.errors import InvalidRequest, ModelNotFound, NotAllowed
from app.routes.authorization import may_unload
from app.routes.incoming_request import IncomingRequest
from app.routes.visibility import known_model, visible_text
from app.use_cases.downloads.repository_names import InvalidName, parse_name
from app.use_cases.downloads.repository_plan import RepositoryPlan

NO_REPOSITORY = (
    "{name!r} is not the name of a Hugging Face repository: user/repo, user/repo:QUANT or user/repo:file.gguf"
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model to download. `model`: the one that the settings give the repository, whose files are not here yet."""

    name: RepositoryName
    model: Model | None = None


def repository_name(name: str) -> RepositoryName | None:
    """None for what is no name of a repository."""
    with contextlib.suppress(InvalidName):
        return parse_name(name)
    return None


def wanted_download(request: IncomingRequest, name: str) -> Wanted | None:
    """What a name means to the downloads; None if it is no repository's. Raises ModelNotFound if the key may not use a
    model of that name."""
    with contextlib.suppress(ModelNotFound):
        model = known_model(request, name)
        if model.repo and (configured := repository_name(model.repo)):
            return Wanted(configured, model)
    parsed = repository_name(name)
    if parsed is None:
        return None
    if not _may_use(request.key, str(parsed)):
        raise ModelNotFound(name)
    return Wanted(parsed)


def check_pull(request: IncomingRequest, name: str) -> Wanted:
    """What an order to download a model means. Raises InvalidRequest, ModelNotFound, or NotAllowed if it takes an
    admin's key."""
    wanted = wanted_download(request, name)
    if wanted is None:
        raise InvalidRequest(NO_REPOSITORY.format(name=name[:200]), param="model")
    if not may_unload(request) and not allows(request, wanted):
        who = f"the key {request.key.name!r}" if request.key else "a web page of another site"
        raise NotAllowed(
            f"{who} may not download {wanted.name}: it needs an admin's key, or catalog.hugging_face.download must "
            "allow it"
        )
    return wanted


def allows(request: IncomingRequest, wanted: Wanted) -> bool:
    """Whether the settings allow a request to have the model downloaded. Who names a repository in `models` allows it,
    unless nothing is."""
    policy = request.settings.download_policy
    return policy.allows(wanted.name) or (wanted.model is not None and policy.rule is DownloadRule.ALLOW)


def visible_plan(request: IncomingRequest, name: str) -> RepositoryPlan:
    """Of the models of a repository that the key may use. Raises as `check_pull`, and what Downloads.plan raises."""
    plan = request.services.downloads.plan(check_pull(request, name).name)
    return replace(plan, quants=tuple(each for each in plan.quants if _may_use(request.key, each.model.name)))


def limited_key(request: IncomingRequest) -> str:
    """The name of a key that may not take all places of downloads; "" for an admin's, or without keys."""
    return request.key.name if request.key and not request.key.admin else ""


def may_pull(request: IncomingRequest) -> bool:
    """Whether there may be models of which the client may order a download."""
    return may_unload(request) or request.settings.download_policy.allows_any


def visible_downloads(request: IncomingRequest) -> tuple[Download, ...]:
    """The downloads of models that the request's key may use, the latest start last."""
    downloads, key = request.services.downloads.all, request.key
    if key is None or not key.is_limited:
        return downloads
    seen = (each for each in downloads if _may_use(key, each.model))
    return tuple(replace(each, problem=visible_text(request, each.problem)) for each in seen)


def _may_use(key: ApiKey | None, name: str) -> bool:
    return key is None or key.allows(name)
