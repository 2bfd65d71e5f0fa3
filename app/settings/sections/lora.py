"""Settings of the LoRA adapters that a model is loaded with."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field, field_validator

from app.settings.values import Section


class LoraSettings(Section):
    """One LoRA adapter."""

    path: Path = Field(description="The adapter's GGUF file; a relative path is resolved like the model's.")
    scale: float = Field(
        1.0, description="How strongly it counts in requests that say nothing of it. 0: only in those that ask for it."
    )

    @field_validator("path")
    @classmethod
    def _is_one_word_for_the_engine(cls, path: Path) -> Path:
        """llama-server splits its list of adapters at commas, and their scales off at colons."""
        if {",", ":"} & set(os.fspath(path)):
            raise ValueError("must have neither a comma nor a colon: llama-server splits it there")
        return Path(os.path.expanduser(path))
