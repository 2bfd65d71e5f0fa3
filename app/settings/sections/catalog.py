"""Settings of the catalogue: where model files are searched."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from app.settings.values import AutoOffOrPath, Folder, ModelName, Section, absolute


class HuggingFaceSettings(Section):
    """Models that the Hugging Face libraries or llama.cpp have downloaded."""

    cache: AutoOffOrPath = Field(
        "auto",
        description="Folder of the cache. auto: the default of the Hugging Face libraries; off: do not use it.",
    )

    @field_validator("cache")
    @classmethod
    def _absolute(cls, cache: str) -> str:
        return cache if cache in ("auto", "off") else str(absolute(Path(cache)))


class CatalogSettings(Section):
    """Where model files are searched."""

    models_dirs: list[Folder] = Field(
        [],
        description=(
            "Folders that are searched for *.gguf files, including subfolders. Each file is served under its "
            "name. `~` is the home directory; a relative path is resolved against the configuration file's "
            "folder."
        ),
    )
    default_model: ModelName | None = Field(
        None,
        description=(
            "The model for requests that name none. null, or a model that the key may not use: the only model "
            "that the key may use and that can be served, if there is exactly one."
        ),
    )
    list_aliases: bool = Field(
        False,
        description="`/v1/models` lists aliases as models of their own, for clients that offer only what is listed.",
    )
    load_on_any_path: bool = Field(
        False,
        description=(
            "A request on a path that is not an inference route of llama-server reaches the model that its JSON body "
            "names only if that is loaded. true: the model is loaded for it."
        ),
    )
    hugging_face: HuggingFaceSettings = HuggingFaceSettings()
