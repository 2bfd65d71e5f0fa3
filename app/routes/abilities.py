"""What a request needs of its model; one that no server of it could answer is rejected before one is started for it."""

from __future__ import annotations

from app.entities.capabilities import Media, MediaPart
from app.entities.model import Model
from app.errors import InvalidRequest, NotSupported
from app.routes.paths import EMBEDDING_ROUTES, INFILL_ROUTES, RERANK_ROUTES, STREAMING_ROUTES, TRANSCRIPTION_ROUTES
from app.routes.requested_model import RequestOptions
from app.use_cases.missing_abilities import ANYTHING, Ability, Demands, missing_ability, missing_media, missing_tools

_ABILITIES = (
    dict.fromkeys((*STREAMING_ROUTES, *TRANSCRIPTION_ROUTES), Ability.COMPLETION)
    | dict.fromkeys(EMBEDDING_ROUTES, Ability.EMBEDDING)
    | dict.fromkeys(RERANK_ROUTES, Ability.RERANK)
    | dict.fromkeys(INFILL_ROUTES, Ability.INFILL)
)


def demands_of(route: str, options: RequestOptions) -> Demands:
    """`route`: of llama-server."""
    if (ability := _ABILITIES.get(route)) is None:
        return ANYTHING
    media = tuple(part.media for part in _media(route, options))
    return Demands(ability, media, tools=options.requires_tool, prefers_tools=options.offers_tools)


def check_abilities(route: str, model: Model, options: RequestOptions) -> None:
    """`route`: of llama-server. Raises NotSupported and InvalidRequest."""
    if (ability := _ABILITIES.get(route)) is None:
        return
    if reason := missing_ability(model, ability):
        raise NotSupported(reason)
    for part in _media(route, options):
        if reason := missing_media(model, part.media):
            raise InvalidRequest(reason, part.param)
    if options.requires_tool and (reason := missing_tools(model)):
        raise NotSupported(reason, "tool_choice")


def _media(route: str, options: RequestOptions) -> tuple[MediaPart, ...]:
    """What the request sends; the form of a transcription has its audio as a file."""
    return (MediaPart(Media.AUDIO, "file"),) if route in TRANSCRIPTION_ROUTES else options.media
