"""Settings of one model, and those it has when it says nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from app.entities.launch import ALL_LAYERS, AUTO_CTX_TOKENS, ModelOptions
from app.settings.values import (
    MAX_INT,
    Arguments,
    AutoOffOrPath,
    CacheType,
    GpuNames,
    ModelName,
    OffOnOrCount,
    OnOff,
    OnOffAuto,
    Section,
    Variables,
)
from app.use_cases.launch.arguments import parse_model_options

MAX_SLOTS = 256  # LLAMA_MAX_SEQ
MAX_REPLICAS = 64  # of one model on one machine


class ModelDefaults(Section):
    """How a model is started, as far as it does not say so itself."""

    ctx_size: Literal["auto"] | Annotated[int, Field(gt=0, le=MAX_INT)] = Field(
        "auto",
        description="Context in tokens, all slots together. auto: the largest of 32768, 16384, 8192 and 4096, never "
        f"above the model's own, that fits one free GPU; in all other places {AUTO_CTX_TOKENS}.",
    )
    parallel: int = Field(4, ge=1, le=MAX_SLOTS, description="Slots: requests a model answers at the same time.")
    kv_unified: bool = Field(True, description="Slots share one KV cache, so that each may use all of the context.")
    ubatch_size: int = Field(
        512, ge=1, le=MAX_INT, description="Tokens computed at a time; the compute buffer grows with it."
    )
    cache_type_k: CacheType = Field("f16", description="Type of the K cache.")
    cache_type_v: CacheType = Field("f16", description="Type of the V cache.")
    flash_attn: OnOffAuto = Field("auto", description="Flash attention.")
    n_gpu_layers: Literal["all"] | Annotated[int, Field(ge=0, le=MAX_INT)] = Field(
        "all", description="Layers on GPUs; 0: the model runs on the CPU."
    )
    cpu_moe: OffOnOrCount = Field(
        "off",
        description="Experts in RAM. on: those of all layers, where no GPU has room for the whole model; a number: "
        "those of so many first layers, always.",
    )
    partial_offload: OnOff = Field("off", description="Layers may stay in RAM where no GPU has room for all of them.")

    def over_arguments(self, args: Sequence[str]) -> ModelOptions:
        """The options of a llama-server started with `args` and these keys, which beat `args`.

        A key reaches the option of its name; the words for numbers are translated here.
        """
        keys: dict[str, Any] = {
            option.name: getattr(self, option.name)
            for option in fields(ModelOptions)
            if option.name in type(self).model_fields
        }
        if self.ctx_size == "auto":
            keys["ctx_size"] = AUTO_CTX_TOKENS
        if self.n_gpu_layers == "all":
            keys["n_gpu_layers"] = ALL_LAYERS
        if isinstance(self.cpu_moe, int):
            keys["n_cpu_moe"] = self.cpu_moe
        return replace(parse_model_options(args), **keys)


class ReplicaSettings(Section):
    """How many llama-servers of one model there may be at the same time."""

    min: int = Field(
        1,
        ge=1,
        le=MAX_REPLICAS,
        description="llama-servers it has as long as it is loaded. Those beyond the first are started where memory is "
        "free; nothing is stopped for them.",
    )
    max: int = Field(
        1,
        ge=1,
        le=MAX_REPLICAS,
        description="The most it has: another is started in free memory when requests have waited for a slot for as "
        "long as a load takes (2 to 30 s), and goes when it was idle for `scheduling.min_residency_seconds`, or for as "
        "long as its load took. Conversations keep their llama-server, and so its prompt cache.",
    )

    @model_validator(mode="after")
    def _min_below_max(self) -> ReplicaSettings:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) must not be above max ({self.max})")
        return self


class ModelSettings(ModelDefaults):
    """One model by its name, with whatever it does otherwise than `defaults`."""

    path: Path | None = Field(
        None,
        description="Its file. A relative path starts at the configuration file's folder, then at each of "
        "`catalog.models_dirs`. Without `path` and `repo`: the model that is found under this name.",
    )
    repo: str | None = Field(
        None, description="Or where it was fetched from: `user/repo`, `user/repo:QUANT` or `user/repo:FILE`."
    )
    aliases: list[ModelName] = Field([], description="More names it answers to.")
    ttl_seconds: float | None = Field(
        None, gt=0, description="Unloaded after this long without a request; null: `scheduling.ttl_seconds`."
    )
    pin: bool = Field(
        False,
        description="Once loaded it stays: it is never stopped for another model, nor for being idle unless it has a "
        "`ttl_seconds` of its own; of several `replicas` one is not stopped, and `min` stay when idle. The service "
        "does not start with pinned models that this machine cannot hold together.",
    )
    preload: bool = Field(False, description="Loaded when the service starts.")
    priority: int = Field(
        0,
        ge=-MAX_INT,
        le=MAX_INT,
        description="Where memory is short, models with a higher one are loaded first, and stopped last. That ends "
        "for requests that have waited for 40 % of `scheduling.max_wait_seconds`: their turn has come.",
    )
    replicas: ReplicaSettings = ReplicaSettings()
    mmproj: AutoOffOrPath = Field(
        "auto",
        description="The projector that lets it see or hear: a path as in `path`; auto: the one beside its file; off.",
    )
    gpus: GpuNames = Field(
        [], description="GPUs it may use, by UUID, NVML index or name; a name means all that are called so. None: any."
    )
    exclude: GpuNames = Field([], description="GPUs it may not use, named in the same way.")
    min_gpus: int = Field(1, ge=1, description="The fewest GPUs it is split over, even if one had room.")
    max_gpus: int | None = Field(None, ge=1, description="The most GPUs it is split over; null: as many as it takes.")
    args: Arguments = Field([], description="More options for its llama-server, one word each.")
    env: Variables = Field({}, description="Environment variables its llama-server gets, over those of `engine.env`.")
    keep_kv_cache: bool = Field(
        False,
        description="What it has computed of its conversations is written to disk before it is unloaded, and read when "
        "it is loaded again: docs/kept-cache.md.",
    )

    @field_validator("path")
    @classmethod
    def _expand_home(cls, path: Path | None) -> Path | None:
        return None if path is None else Path(os.path.expanduser(path))

    @field_validator("repo")
    @classmethod
    def _check_repo(cls, repo: str | None) -> str | None:
        # It becomes part of a path.
        name = r"(?!\.{1,2}(?:[/:]|$))[\w.-]+"
        if repo is not None and not re.fullmatch(f"{name}/{name}(?::{name}(?:/{name})*)?", repo, re.ASCII):
            raise ValueError(f"{repo!r} is not like user/repo, user/repo:QUANT or user/repo:FILE")
        return repo

    @model_validator(mode="after")
    def _path_or_repo(self) -> ModelSettings:
        if self.path is not None and self.repo is not None:
            raise ValueError("path and repo are two places for one model; keep one")
        return self

    @model_validator(mode="after")
    def _min_gpus_below_max(self) -> ModelSettings:
        if self.max_gpus is not None and self.min_gpus > self.max_gpus:
            raise ValueError(f"min_gpus ({self.min_gpus}) must not be above max_gpus ({self.max_gpus})")
        return self

    def over(self, defaults: ModelDefaults) -> ModelSettings:
        """The same, with those of `defaults` where it says nothing itself."""
        silent = ModelDefaults.model_fields.keys() - self.model_fields_set
        return self.model_copy(update={key: getattr(defaults, key) for key in silent})
