"""What a request requires of its model, and what of that its server would lack, as far as is known before a load.

The server would reject such a request, or ignore a required tool call. What header and settings do not tell for sure is
left to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from app.entities.capabilities import HeaderFacts, Media
from app.entities.launch import Task
from app.entities.model import Model

# What may give a server more than the catalogue knows of.
_TEMPLATE_OPTIONS = ("--chat-template", "--chat-template-file", "--jinja")
_PROJECTOR_OPTIONS = ("--mmproj", "-mm")
_ENGINE_VARIABLES = "LLAMA_ARG_"

_ANOTHER = "or choose another model (`capabilities` in GET /v1/models)"


class Capability(StrEnum):
    """What the routes of llama-server are for, where not every model can do it; the fields of Capabilities."""

    COMPLETION = "completion"
    EMBEDDING = "embedding"
    RERANK = "rerank"
    INFILL = "infill"


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a request requires of its model."""

    capability: Capability | None = None  # None: any model will do
    media: tuple[Media, ...] = ()  # that it sends
    tools: bool = False  # a call of one is required
    thinking: bool = False
    prefers_tools: bool = False  # it offers some; a model without them answers it nevertheless


NO_REQUIREMENTS = Requirements()


def suitable(models: Sequence[Model], requirements: Requirements) -> list[Model]:
    """Those of a virtual name's models that could answer, as far as is known; without one all, to say why not.

    In their order, but if the request offers tools, models that have them come first.
    """
    able = [model for model in models if not model.problem and _can_answer(model, requirements)]
    return sorted(able or models, key=lambda model: requirements.prefers_tools and bool(missing_tools(model)))


def _can_answer(model: Model, requirements: Requirements) -> bool:
    return _is_served_for(model, requirements.capability) and not (
        any(missing_media(model, media) for media in requirements.media)
        or (requirements.tools and missing_tools(model))
        or (requirements.thinking and lacks_thinking(model))
    )


def _is_served_for(model: Model, capability: Capability | None) -> bool:
    """Stricter than `missing_capability`: a server started to embed may generate text, but another is better."""
    if capability is None or model.capabilities is None or _has_engine_variables(model):
        return True
    return bool(getattr(model.capabilities, capability.value))


def missing_capability(model: Model, capability: Capability) -> str:
    """Why no server of the model has this capability, and what to do; "" if one may."""
    facts, capabilities = model.facts, model.capabilities
    if facts is None or capabilities is None or _has_engine_variables(model):
        return ""
    match capability:
        case Capability.EMBEDDING if not (capabilities.embedding or capabilities.rerank):
            return f"{model.name} is served without embeddings: add --embeddings to its `args`, {_ANOTHER}"
        case Capability.RERANK if not capabilities.rerank:
            return f"{model.name} is not a reranker: add --reranking to its `args` if its file can rank, {_ANOTHER}"
        case Capability.INFILL if not facts.has_infill_tokens:
            return f"{model.name} has no infill (FIM) tokens in its vocabulary: choose a model made for code completion"
        case Capability.COMPLETION | Capability.INFILL if _only_embeds(facts):
            route = "/v1/rerank" if facts.task is Task.RERANK else "/v1/embeddings"
            return f"{model.name} is made for {facts.task.value} and generates no text: use {route}, {_ANOTHER}"
    return ""


def missing_media(model: Model, media: Media) -> str:
    """Why no server of the model takes this kind of media, and what to do; "" if one may."""
    if model.facts is None or media in model.media or _has_engine_variables(model):
        return ""
    if _names(model.launch.args, _PROJECTOR_OPTIONS):
        return ""
    has = f"its projector takes no {media.value}" if model.launch.mmproj else "it has no projector"
    return f"{model.name} cannot read {media.value} input: {has}; set the model's `mmproj`, {_ANOTHER}"


def missing_tools(model: Model) -> str:
    """Why no server of the model can be made to call a tool, and what to do; "" if one may.

    For a chat template without tools llama-server (b11549) writes no grammar, and ignores `tool_choice`.
    """
    facts = model.facts
    if facts is None or facts.template_has_tools or _may_have_another_template(model):
        return ""
    return (
        f"{model.name}: llama-server would ignore this tool_choice, because the model's chat template has no tools; "
        f"add --chat-template-file with one that has them to its `args`, {_ANOTHER}"
    )


def lacks_thinking(model: Model) -> bool:
    """Whether no server of the model can be made to think."""
    facts = model.facts
    return not (facts is None or facts.template_has_thinking or _may_have_another_template(model))


def _may_have_another_template(model: Model) -> bool:
    return _has_engine_variables(model) or _names(model.launch.args, _TEMPLATE_OPTIONS)


def _only_embeds(facts: HeaderFacts) -> bool:
    """A decoder with a chat template generates text, whatever it was made for."""
    return facts.task is not Task.COMPLETION and not facts.has_chat_template


def _has_engine_variables(model: Model) -> bool:
    return any(name.upper().startswith(_ENGINE_VARIABLES) for name in model.launch.env)


def _names(args: Iterable[str], options: tuple[str, ...]) -> bool:
    return any(arg.startswith(options) for arg in args)
