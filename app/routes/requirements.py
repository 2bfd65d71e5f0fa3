"""What a request requires of its model. One that no server of the model could answer is rejected before a load."""

from __future__ import annotations

from app.entities.capabilities import Media, MediaPart
from app.entities.model import Model
from app.errors import InvalidRequest, NotSupported
from app.routes.paths import EMBEDDING_ROUTES, INFILL_ROUTES, RERANK_ROUTES, STREAMING_ROUTES, TRANSCRIPTION_ROUTES
from app.routes.requested_model import RequestOptions
from app.use_cases.requirements import (
    NO_REQUIREMENTS,
    Capability,
    Requirements,
    missing_capability,
    missing_media,
    missing_tools,
)

_CAPABILITIES = (
    dict.fromkeys((*STREAMING_ROUTES, *TRANSCRIPTION_ROUTES), Capability.COMPLETION)
    | dict.fromkeys(EMBEDDING_ROUTES, Capability.EMBEDDING)
    | dict.fromkeys(RERANK_ROUTES, Capability.RERANK)
    | dict.fromkeys(INFILL_ROUTES, Capability.INFILL)
)


def requirements_of(route: str, options: RequestOptions) -> Requirements:
    """`route`: of llama-server."""
    if (capability := _CAPABILITIES.get(route)) is None:
        return NO_REQUIREMENTS
    media = tuple(part.media for part in _media(route, options))
    return Requirements(capability, media, tools=options.requires_tool, prefers_tools=options.offers_tools)


def check_requirements(route: str, model: Model, options: RequestOptions) -> None:
    """`route`: of llama-server. Raises NotSupported and InvalidRequest."""
    if (capability := _CAPABILITIES.get(route)) is None:
        return
    if reason := missing_capability(model, capability):
        raise NotSupported(reason)
    for part in _media(route, options):
        if reason := missing_media(model, part.media):
            raise InvalidRequest(reason, part.param)
    if options.requires_tool and (reason := missing_tools(model)):
        raise NotSupported(reason, "tool_choice")


def _media(route: str, options: RequestOptions) -> tuple[MediaPart, ...]:
    """What the request sends; the form of a transcription has its audio as a file."""
    return (MediaPart(Media.AUDIO, "file"),) if route in TRANSCRIPTION_ROUTES else options.media
