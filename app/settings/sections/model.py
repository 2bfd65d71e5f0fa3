"""Settings of one model."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from app.settings.sections.lora import Adapters
from app.settings.sections.model_defaults import ModelDefaults, keys_in
from app.settings.sections.request_rules import RequestRuleSettings
from app.settings.values import (
    MAX_INT,
    Arguments,
    AutoOffOrPath,
    GpuNames,
    ModelName,
    Section,
    Text,
    Variables,
)

MAX_REPLICAS = 64  # of one model on one machine


class ReplicaSettings(Section):
    """How many llama-servers one model may have at the same time."""

    min: int = Field(
        1,
        ge=1,
        le=MAX_REPLICAS,
        description=(
            "Number of llama-servers while the model is loaded. All but the first are started only in free "
            "memory: nothing is evicted for them."
        ),
    )
    max: int = Field(
        1,
        ge=1,
        le=MAX_REPLICAS,
        description=(
            "Largest number of llama-servers. Another one is started in free memory once requests have "
            "waited for a slot as long as a load takes (2 to 30 s), and stopped after being idle for "
            "`scheduling.min_residency_seconds` or for its load time. A conversation stays with its "
            "llama-server, and so with its prompt cache."
        ),
    )

    @model_validator(mode="after")
    def _min_below_max(self) -> ReplicaSettings:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) must not be above max ({self.max})")
        return self


class ModelSettings(ModelDefaults):
    """One model, by name. It overrides `defaults`."""

    path: Path | None = Field(
        None,
        description=(
            "Model file. A relative path is resolved against the configuration file's folder, then against "
            "each of `catalog.models_dirs`. Without `path` and `repo`: the model discovered under this name."
        ),
    )
    repo: str | None = Field(
        None,
        description=(
            "Model in the Hugging Face cache, as an alternative to `path`: `user/repo`, `user/repo:QUANT` or "
            "`user/repo:FILE`."
        ),
    )
    aliases: list[ModelName] = Field(
        [],
        description=(
            "Other names that clients can use for the model. `*` and `?` are wildcards: `claude-*` is any name that "
            "begins so and is no other model's; of several globs, the one with the most other characters counts."
        ),
    )
    ttl_seconds: float | None = Field(
        None, gt=0, description="Idle time after which the model is unloaded. null: `scheduling.ttl_seconds`."
    )
    pin: bool = Field(
        False,
        description=(
            "Keep the model loaded: it is never evicted, and is unloaded when idle only if it has its own "
            "`ttl_seconds`. With `replicas`, one server is never evicted and `min` servers are kept when "
            "idle. The service refuses to start if the machine cannot hold all pinned models together."
        ),
    )
    preload: bool = Field(
        False, description="Load the model when the service starts, and when a reload adds or changes it."
    )
    priority: int = Field(
        0,
        ge=-MAX_INT,
        le=MAX_INT,
        description=(
            "Models with a higher priority are loaded first and evicted last when memory is short. Priority "
            "no longer counts for requests that have waited 40 % of `scheduling.max_wait_seconds`."
        ),
    )
    replicas: ReplicaSettings = ReplicaSettings()
    requests: RequestRuleSettings = RequestRuleSettings()
    variants: dict[ModelName, RequestRuleSettings] = Field(
        {},
        description=(
            "Further names of the model, listed like models, each with rules of its own in addition to `requests`. "
            "They share its llama-server: docs/models.md."
        ),
    )
    mmproj: AutoOffOrPath = Field(
        "auto",
        description=(
            "Multimodal projector (image or audio input): a path as in `path`; auto: the projector next to "
            "the model file; off."
        ),
    )
    lora: Adapters = Field(
        [], description="LoRA adapters that are loaded with the model; requests choose their scales: docs/lora.md."
    )
    gpus: GpuNames = Field(
        [],
        description=(
            "GPUs that the model may use, by UUID, NVML index or name (a name selects all GPUs of that "
            "name). Empty: any."
        ),
    )
    exclude: GpuNames = Field([], description="GPUs that the model must not use, given in the same way.")
    min_gpus: int = Field(
        1, ge=1, description="Smallest number of GPUs to split the model over, even if it fits on fewer."
    )
    max_gpus: int | None = Field(
        None, ge=1, description="Largest number of GPUs to split the model over. null: no limit."
    )
    engine: Annotated[Text, Field(min_length=1)] | None = Field(
        None,
        description=(
            "llama-server of this model: auto, embedded, the name of an installed one (`engine list`), or a path, as "
            "in `engine.binary`. null: the service's. docs/engines.md."
        ),
    )
    args: Arguments = Field([], description="Additional llama-server arguments, one word per item.")
    env: Variables = Field(
        {}, description="Environment variables of the model's llama-server. They override those of `engine.env`."
    )
    keep_kv_cache: bool = Field(
        False,
        description=(
            "Save the KV cache of its conversations to disk before the model is unloaded and restore it at "
            "the next load: docs/kept-cache.md."
        ),
    )

    @field_validator("path")
    @classmethod
    def _expand_home(cls, path: Path | None) -> Path | None:
        return None if path is None else Path(os.path.expanduser(path))

    @field_validator("repo")
    @classmethod
    def _check_repo(cls, repo: str | None) -> str | None:
        # Becomes part of a path.
        name = r"(?!\.{1,2}(?:[/:]|$))[\w.-]+"
        if repo is not None and not re.fullmatch(f"{name}/{name}(?::{name}(?:/{name})*)?", repo, re.ASCII):
            raise ValueError(f"must look like user/repo, user/repo:QUANT or user/repo:FILE, not {repo!r}")
        return repo

    @model_validator(mode="after")
    def _path_or_repo(self) -> ModelSettings:
        if self.path is not None and self.repo is not None:
            raise ValueError("path and repo exclude each other; remove one")
        return self

    @model_validator(mode="after")
    def _min_gpus_below_max(self) -> ModelSettings:
        if self.max_gpus is not None and self.min_gpus > self.max_gpus:
            raise ValueError(f"min_gpus ({self.min_gpus}) must not be above max_gpus ({self.max_gpus})")
        return self

    def names(self, own: str) -> tuple[str, ...]:
        """All names that these settings give the model called `own`."""
        return own, *self.aliases, *self.variants

    def over(self, defaults: ModelDefaults) -> ModelSettings:
        """These settings, with `defaults` for the keys that neither they nor their `args` set."""
        unset = ModelDefaults.model_fields.keys() - self.model_fields_set - keys_in(self.args)
        return self.model_copy(update={key: getattr(defaults, key) for key in unset})
