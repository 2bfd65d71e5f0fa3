"""Settings of the LoRA adapters that a model is loaded with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from app.settings.values import Section


class LoraSettings(Section):
    """One LoRA adapter."""

    path: Path = Field(description="The adapter's GGUF file; a relative path is resolved like the model's.")
    scale: float = Field(
        1.0, description="How strongly it counts in requests that say nothing of it. 0: only in those that ask for it."
    )

    @model_validator(mode="before")
    @classmethod
    def _is_a_mapping(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(f"must be a mapping: {{path: {value}}}")
        return value

    @field_validator("path")
    @classmethod
    def _is_one_word_for_the_engine(cls, path: Path) -> Path:
        """llama-server splits its list of adapters at commas, and their scales off at colons."""
        if path == Path():
            raise ValueError("must be a file")
        if {",", ":"} & set(os.fspath(path)):
            raise ValueError("must have neither a comma nor a colon: llama-server splits it there")
        return Path(os.path.expanduser(path))


def _are_listed(value: object) -> object:
    if isinstance(value, str | dict):
        path = value if isinstance(value, str) else value.get("path", "FILE")
        raise ValueError(f"must be a list of adapters: [{{path: {path}}}]")
    return value


Adapters = Annotated[list[LoraSettings], BeforeValidator(_are_listed)]
