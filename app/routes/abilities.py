"""Rejects a request that no server of its model could answer, before one is started for it."""

from __future__ import annotations

from app.entities.model import Model
from app.errors import InvalidRequest, NotSupported
from app.routes.paths import EMBEDDING_ROUTES, INFILL_ROUTES, RERANK_ROUTES, STREAMING_ROUTES
from app.routes.requested_model import RequestOptions
from app.use_cases.missing_abilities import Ability, missing_ability, missing_media, missing_tools

_ABILITIES = (
    dict.fromkeys(STREAMING_ROUTES, Ability.COMPLETION)
    | dict.fromkeys(EMBEDDING_ROUTES, Ability.EMBEDDING)
    | dict.fromkeys(RERANK_ROUTES, Ability.RERANK)
    | dict.fromkeys(INFILL_ROUTES, Ability.INFILL)
)


def check_abilities(route: str, model: Model, options: RequestOptions) -> None:
    """`route`: of llama-server. Raises NotSupported and InvalidRequest."""
    if (ability := _ABILITIES.get(route)) is None:
        return
    if reason := missing_ability(model, ability):
        raise NotSupported(reason)
    for part in options.media:
        if reason := missing_media(model, part.media):
            raise InvalidRequest(reason, part.param)
    if options.requires_tool and (reason := missing_tools(model)):
        raise NotSupported(reason, "tool_choice")
