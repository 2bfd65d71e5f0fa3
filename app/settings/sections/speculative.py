"""Settings of speculative decoding: which tokens are drafted for a model, and by what."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from app.entities.launch import DRAFTS_ITSELF, PLAIN_DRAFT
from app.settings.values import Section

MAX_DRAFT = 64  # tokens at a time; each slot has logits for so many

DraftKind = Literal[
    "draft-simple",
    "draft-mtp",
    "draft-eagle3",
    "draft-dflash",
    "draft-dspark",
    "ngram-simple",
    "ngram-map-k",
    "ngram-map-k4v",
    "ngram-mod",
]


class SpeculativeSettings(Section):
    """By which model, or by what else, tokens are drafted."""

    draft: str | None = None
    type: DraftKind | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_DRAFT)] | None = None

    @field_validator("draft")
    @classmethod
    def _is_one_word_for_the_engine(cls, draft: str | None) -> str | None:
        if draft == "":
            raise ValueError("must be a file, or the name of a model")
        return None if draft is None else os.path.expanduser(draft)

    @model_validator(mode="after")
    def _has_what_its_type_needs(self) -> SpeculativeSettings:
        kind = self.type or ""
        if self.draft is None and kind == "":
            raise ValueError("speculative: name a draft (a file or a model), or a type such as ngram-mod or draft-mtp")
        if self.draft is not None and kind.startswith("ngram"):
            raise ValueError(f"speculative: {kind} uses no draft model; remove draft, or the type")
        if self.draft is None and kind.startswith("draft") and kind != DRAFTS_ITSELF:
            raise ValueError(f"speculative: {kind} needs a draft: a file, or the name of a model")
        return self

    @property
    def speculation(self) -> str:
        """llama-server's --spec-type."""
        return self.type or PLAIN_DRAFT


def _word(value: object) -> object:
    if value is False:
        return "off"
    if isinstance(value, str) and value not in ("auto", "off", "on"):
        key = "type" if value in get_args(DraftKind) else "draft"
        raise ValueError(f"must be auto, off, or {{{key}: {value}}}")
    return value


# Told apart beforehand, so that an error is about the form that was meant.
def _form(value: Any) -> str:
    return "map" if isinstance(value, dict | SpeculativeSettings) else "word"


Speculative = Annotated[
    Annotated[Literal["auto", "off"], BeforeValidator(_word), Tag("word")] | Annotated[SpeculativeSettings, Tag("map")],
    Discriminator(_form),
]
