"""Translation: what a translated request is, and what must be known of it to translate its answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

# Paths of llama-server.
CHAT = "/v1/chat/completions"
COMPLETION = "/completion"
INFILL = "/infill"
EMBEDDINGS = "/v1/embeddings"


class Api(StrEnum):
    """The routes of Ollama that need a model's server."""

    CHAT = "/api/chat"
    GENERATE = "/api/generate"
    EMBED = "/api/embed"
    EMBEDDINGS = "/api/embeddings"


class NotTranslatable(ValueError):
    """A field of the request is not what Ollama's API expects, or has no counterpart. `param` names it."""

    def __init__(self, param: str, problem: str) -> None:
        super().__init__(f"{param}: {problem}")
        self.param = param


@dataclass(frozen=True, slots=True)
class Translation:
    """What the answer's translation depends on."""

    api: Api
    path: str = ""  # of the engine; "": it is not asked, its model is only loaded or unloaded
    streams: bool = False
    dimensions: int | None = None  # to which embeddings are shortened
    thinks: bool = False  # thinking is asked for
    ignored: tuple[str, ...] = ()  # options without a counterpart


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """A request to llama-server. Of a request that only loads a model, the body has nothing but its options."""

    translation: Translation
    body: dict[str, Any]
