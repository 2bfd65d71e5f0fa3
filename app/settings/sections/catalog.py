"""Settings of the catalogue: where model files are searched."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from app.entities.download_policy import DownloadPolicy, DownloadRule
from app.settings.values import AutoOffOrPath, Folder, ModelName, OffAllowOn, RepositoryGlob, Section, absolute


def absolute_path(chosen: str) -> str:
    """A path of an AutoOffOrPath made absolute; auto and off as they are."""
    return chosen if chosen in ("auto", "off") else str(absolute(Path(chosen)))


class HuggingFaceSettings(Section):
    """Models of Hugging Face repositories: those that are in its cache, and which others may be downloaded."""

    cache: AutoOffOrPath = Field(
        "auto",
        description="Folder of the cache. auto: the default of the Hugging Face libraries; off: do not use it.",
    )

    download: OffAllowOn = Field(
        "off",
        description=(
            "Which models requests may download: a request for `user/repo:QUANT` that is not here waits until it is. "
            "off: none; allow: those that match a glob of `allow`; on: any that its key may use. Admin keys may always "
            "order a download by `pull` or on the status page, other keys those that are allowed here."
        ),
    )
    allow: list[RepositoryGlob] = Field(
        [],
        description=(
            "With `download: allow`: globs over `user/repo` and `user/repo:QUANT`, such as `ggml-org/*`. Case does not "
            "matter."
        ),
    )

    @field_validator("cache")
    @classmethod
    def _absolute(cls, cache: str) -> str:
        return absolute_path(cache)

    @model_validator(mode="after")
    def _downloads_have_a_place(self) -> Self:
        if self.download != "off" and self.cache == "off":
            raise ValueError(f"download: {self.download} needs the cache, which is where downloads go; cache is off")
        return self

    def policy(self) -> DownloadPolicy:
        """Which models requests may download."""
        return DownloadPolicy(DownloadRule(self.download), tuple(self.allow))


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
    ollama: AutoOffOrPath = Field(
        "auto",
        description=(
            "Ollama's models, read only. auto: `OLLAMA_MODELS`, else where Ollama keeps them: `~/.ollama/models`, "
            "`/usr/share/ollama`, `/var/lib/ollama`; off: do not use them; or the folder that contains `manifests` and "
            "`blobs`."
        ),
    )
    lm_studio: AutoOffOrPath = Field(
        "auto",
        description=(
            "LM Studio's models. auto: the folder that LM Studio of this user keeps them in, as `~/.lmstudio/models`; "
            "off: do not use them; or a folder with `PUBLISHER/REPO/FILE.gguf`."
        ),
    )

    @field_validator("ollama", "lm_studio")
    @classmethod
    def _absolute(cls, folder: str) -> str:
        return absolute_path(folder)
