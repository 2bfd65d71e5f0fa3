"""Settings: declared once, here. Help, defaults and validation all come from these classes.

configuration.py reads them; page.py generates docs/configuration.md. Error messages never contain a possible secret.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ByteSize, Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from app.entities.key import ApiKey
from app.entities.launch import LaunchSettings
from app.entities.media_urls import MediaUrls
from app.entities.placement import CpuFallback, GpuLimits, PlacementConstraints, Policy
from app.settings.gpu import GpuSettings
from app.settings.model import ModelDefaults, ModelSettings
from app.settings.retired_keys import without_retired_keys
from app.settings.values import (
    NEEDS_RESTART,
    PREFIX,
    Arguments,
    AutoOffOrPath,
    Folder,
    Memory,
    ModelName,
    Name,
    Section,
    Text,
    Variables,
    absolute,
    start_folder,
    url_origin,
)
from app.use_cases.credentials import is_loopback

_HOST = re.compile(r"([\w.-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?")


class ServerSettings(Section):
    """Where the service listens, and limits on connections."""

    reload = NEEDS_RESTART  # of all keys but those that are marked APPLIES_AT_ONCE

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on. 0: the system chooses a free port.")
    threads: int = Field(
        512, ge=4, description="Threads that process requests. Each waiting or running request occupies one."
    )
    reserve_threads: int = Field(
        16, ge=1, description="Threads never used for inference, so that health checks are always answered."
    )
    max_body: ByteSize = Field(ByteSize(256 * 1024**2), description="Largest request body.")
    max_bodies: ByteSize = Field(
        ByteSize(1024**3),
        description="Memory for all request bodies together, at least one of `max_body`; further ones of more than "
        "256 KiB get 503.",
    )
    receive_timeout_seconds: float = Field(
        10.0, gt=0, description="Timeout for a request's headers, and for a pause while its body arrives."
    )
    drain_seconds: float = Field(30.0, ge=0, description="How long running streams may continue after a stop signal.")
    stop_seconds: float = Field(10.0, gt=0, description="How long a llama-server may take to exit before it is killed.")
    allow_open: bool = Field(
        False, description="Without keys, let anyone who can reach the address use the service, under any Host name."
    )

    public_url: Text | None = Field(
        None,
        description=(
            "URL of the service as browsers know it, if a reverse proxy changes the Host header: "
            "https://llm.example.org. Its pages count as our own; see [keys.md](keys.md#browsers)."
        ),
    )

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, url: str | None) -> str | None:
        try:
            is_valid = url is None or bool(re.match(r"(?i)https?://[^/]", url) and url_origin(url))
        except ValueError:
            is_valid = False
        if not is_valid:
            raise ValueError("must begin with http:// or https:// and a host name")
        return url

    @property
    def public_origin(self) -> str:
        """That of public_url; "" without one."""
        return url_origin(self.public_url) if self.public_url else ""

    @field_validator("host")
    @classmethod
    def _normalize_host(cls, host: str) -> str:
        bare = host.strip().removeprefix("[").removesuffix("]")
        return "0.0.0.0" if bare in ("", "*") else bare

    @model_validator(mode="after")
    def _reserve_below_threads(self) -> ServerSettings:
        if self.reserve_threads > self.threads - 2:
            raise ValueError(f"reserve_threads ({self.reserve_threads}) must be below threads ({self.threads}) - 1")
        return self

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address. A name other than localhost may resolve to any address."""
        return is_loopback(self.host)


class ApiKeySettings(Section):
    """One API key and what it permits."""

    name: Name = Field(description="Name of the key in the log and in metrics.")
    sha256: str = Field(
        description='The hash of the key, never the key itself: `printf %s "$KEY" | sha256sum` prints it.'
    )
    models: list[Text] = Field(["*"], description="Models that the key may use; `*` and `?` are wildcards.")
    admin: bool = Field(
        False,
        description=(
            "May load and unload models, reload the configuration, change the engine's LoRA scales, and read "
            "`/decisions`."
        ),
    )
    requests_per_minute: int = Field(600, ge=1, description="Limit on inference requests per minute.")
    tokens_per_day: int | None = Field(
        None,
        ge=1,
        description="Limit on the tokens of prompts and answers per UTC day, cached prompts included. null: no limit.",
    )

    @field_validator("sha256")
    @classmethod
    def _check_hash(cls, digits: str) -> str:
        found = re.fullmatch(r"[0-9a-f]{64}", digits.strip().lower())
        if not found:
            raise ValueError(
                'must be the hash of a key (64 hexadecimal digits); create it with: printf %s "$KEY" | sha256sum'
            )
        if found[0] == hashlib.sha256(b"").hexdigest():
            raise ValueError("is the hash of an empty key")
        return found[0]

    def api_key(self) -> ApiKey:
        limits = self.requests_per_minute, self.tokens_per_day
        return ApiKey(self.name, self.sha256, tuple(self.models), self.admin, *limits)


class EngineSettings(Section):
    """Which llama-server runs, and options for all of them."""

    binary: Annotated[str, NEEDS_RESTART] = Field(
        "auto", description="auto (llama-server on PATH, otherwise the embedded engine), embedded, or a path."
    )
    args: Arguments = Field(
        [], description="Additional arguments for every llama-server, one word per item. A model's own come after them."
    )
    env: Annotated[Variables, NEEDS_RESTART] = Field({}, description="Environment variables of every llama-server.")
    assume_gpu: Annotated[bool, NEEDS_RESTART] = Field(
        False, description="Assume that the engine supports NVIDIA GPUs instead of probing it; for wrapper scripts."
    )


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
    hugging_face: HuggingFaceSettings = HuggingFaceSettings()


class UpstreamSettings(Section):
    """Timeouts for responses of a llama-server, and what it may fetch."""

    first_byte_seconds: float = Field(
        600.0, gt=0, description="How long a llama-server may take to begin its response."
    )
    stall_seconds: float = Field(300.0, gt=0, description="How long a response that has begun may pause.")
    media_urls: Literal["data", "http"] | list[Text] = Field(
        "data",
        description=(
            "URLs of images, audio and video that a request may name; llama-server fetches them from this machine. "
            "data: only data: URLs, which are a part of the request; http: any http: or https: URL; or a list of "
            "hosts (`example.com`, or `example.com:8443` for another port than the default one)."
        ),
    )

    @field_validator("media_urls")
    @classmethod
    def _check_hosts(cls, allowed: str | list[str]) -> str | list[str]:
        if isinstance(allowed, list) and (wrong := [host for host in allowed if not _HOST.fullmatch(host)]):
            raise ValueError(f"{wrong[0]!r} is not a host; write example.com, 10.0.0.7:8080 or [fd00::7]")
        return allowed

    def allowed_media_urls(self) -> MediaUrls:
        if isinstance(self.media_urls, str):
            return MediaUrls(any_host=self.media_urls == "http")
        return MediaUrls(hosts=frozenset(host.lower() for host in self.media_urls))


class SchedulingSettings(Section):
    """Limits on waiting requests, and when models are unloaded."""

    max_loaded: int | None = Field(
        None, ge=1, description="Largest number of llama-servers, replicas included. null: limited by memory only."
    )
    max_waiting: int = Field(256, ge=1, description="Largest number of waiting requests, all models together.")
    max_waiting_per_model: int = Field(128, ge=1, description="Largest number of waiting requests for one model.")
    max_wait_seconds: float = Field(300.0, gt=0, description="How long a request may wait for a slot.")
    min_residency_seconds: float = Field(
        20.0,
        ge=0,
        description=(
            "A model loaded or used more recently than this is evicted only when other requests have waited "
            "a long time. 0: it can be evicted as soon as it is idle."
        ),
    )
    ttl_seconds: float = Field(
        900.0, gt=0, description="Idle time after which a model is unloaded; 31536000 is a year."
    )
    stall_timeout_seconds: float = Field(
        300.0, gt=0, description="How long a loading llama-server may show no progress before it is stopped."
    )
    hang_timeout_seconds: float = Field(
        30.0,
        gt=0,
        description=(
            "How long a llama-server that has requests may not respond before it is killed and a new one started. "
            "31536000, a year: never."
        ),
    )
    max_excess_memory: Memory | None = Field(
        ByteSize(4 * 1024**3),
        description=(
            "RAM that a llama-server may hold beyond what was booked for it; one that holds more is killed, and its "
            "requests fail. 4 GiB is above what honest requests take (the largest bodies, several times over, while "
            "they are parsed); a runaway JSON schema or grammar takes it in seconds. Context checkpoints do not "
            "count. null: no limit."
        ),
    )
    kv_cache_disk: Memory = Field(
        ByteSize(16 * 1024**3),
        description=(
            "Disk space for the saved KV caches of all models with `keep_kv_cache`. The oldest are deleted first."
        ),
    )
    loading_comments: bool | Literal["reasoning_content"] = Field(
        True,
        description=(
            "A stream that waits for a load begins after two seconds and reports the load's progress. true: "
            "in SSE comments, which clients ignore; reasoning_content: in chats as reasoning text, which "
            "clients display; false: nothing is sent while waiting."
        ),
    )

    def fitting(self, server: ServerSettings) -> SchedulingSettings:
        """These settings, with a default of `max_waiting` that fits the threads. A configured number stays."""
        if "max_waiting" in self.model_fields_set:
            return self
        default = type(self).model_fields["max_waiting"].default
        available = server.threads - server.reserve_threads
        fitting = self.model_copy(update={"max_waiting": min(default, available - 1)})
        fitting.model_fields_set.discard("max_waiting")  # it is still a default
        return fitting


class Settings(BaseSettings):
    """Every setting of the service; the environment overrides the values passed in. Frozen."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_parse_none_str="null",
    )

    server: ServerSettings = ServerSettings()
    keys: list[ApiKeySettings] = Field(
        [],
        description=(
            "API keys. Without keys the service is open to this machine only, or to anyone with `server.allow_open`."
        ),
    )
    engine: EngineSettings = EngineSettings()
    catalog: CatalogSettings = CatalogSettings()
    gpu: GpuSettings = GpuSettings()
    upstream: UpstreamSettings = UpstreamSettings()
    scheduling: SchedulingSettings = SchedulingSettings()
    defaults: ModelDefaults = ModelDefaults()
    models: dict[ModelName, ModelSettings] = Field(
        {}, description="Models by name: additional models, or settings for discovered ones."
    )

    _folder: Path = Path()

    def model_post_init(self, context: Any) -> None:
        self._folder = start_folder()

    @property
    def folder(self) -> Path:
        """The folder that relative paths are resolved against."""
        return self._folder

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings  # highest precedence first; init_settings are the file's values

    @model_validator(mode="before")
    @classmethod
    def _drop_retired_keys(cls, data: Any) -> Any:
        return without_retired_keys(data)

    @field_validator("keys", "models", mode="before")
    @classmethod
    def _null_means_empty(cls, value: Any, info: ValidationInfo) -> Any:
        return {"keys": [], "models": {}}[info.field_name or ""] if value is None else value

    @field_validator("keys")
    @classmethod
    def _unique_api_keys(cls, keys: list[ApiKeySettings]) -> list[ApiKeySettings]:
        if duplicate := _first_duplicate(key.name for key in keys):
            raise ValueError(f"two keys have the name {duplicate!r}")
        if duplicate := _first_duplicate(key.sha256 for key in keys):
            names = [key.name for key in keys if key.sha256 == duplicate]
            raise ValueError(f"{' and '.join(names)} are the same key; remove one")
        return keys

    @field_validator("models")
    @classmethod
    def _unique_model_names(cls, models: dict[str, ModelSettings]) -> dict[str, ModelSettings]:
        if duplicate := _first_duplicate(name for own, model in models.items() for name in (own, *model.aliases)):
            holders = [own for own, model in models.items() if duplicate in (own, *model.aliases)]
            if len(holders) == 1:
                what = "its own name" if duplicate == holders[0] else f"{duplicate!r} twice"
                raise ValueError(f"{holders[0]!r} has {what} among its aliases; remove it")
            raise ValueError(f"{duplicate!r} is a name or alias of both {' and '.join(holders)}; only one can have it")
        return models

    @model_validator(mode="after")
    def _waiting_requests_fit_the_threads(self) -> Settings:
        available = self.server.threads - self.server.reserve_threads
        if "max_waiting" not in self.scheduling.model_fields_set:
            object.__setattr__(self, "scheduling", self.scheduling.fitting(self.server))
        elif self.scheduling.max_waiting >= available:
            raise ValueError(
                f"scheduling.max_waiting ({self.scheduling.max_waiting}) must be below server.threads - "
                f"server.reserve_threads ({available}): every waiting request occupies a thread"
            )
        return self

    @model_validator(mode="after")
    def _pinned_models_may_all_be_loaded(self) -> Settings:
        pinned, max_loaded = self.pinned, self.scheduling.max_loaded
        if max_loaded is not None and len(pinned) > max_loaded:
            raise ValueError(
                f"scheduling.max_loaded ({max_loaded}) must not be below the number of pinned models ({len(pinned)}: "
                f"{', '.join(pinned)}): they stay loaded"
            )
        return self

    @model_validator(mode="after")
    def _cache_types_are_supported(self) -> Settings:
        for name in (None, *self.models):
            options = self.launch_of(name).options
            if options.flash_attn == "off" and options.cache_type_v not in ("f32", "f16", "bf16"):
                where = "defaults" if name is None else f"models.{name}"
                raise ValueError(f"{where}: cache_type_v {options.cache_type_v} needs flash_attn on or auto")
        return self

    @property
    def is_open(self) -> bool:
        """Whether other machines can reach the service without a key."""
        return not self.keys and not self.server.is_loopback

    @property
    def pinned(self) -> list[str]:
        """Names of the pinned models."""
        return [name for name, model in self.models.items() if model.pin]

    def api_keys(self) -> tuple[ApiKey, ...]:
        return tuple(key.api_key() for key in self.keys)

    def launch_of(self, name: str | None = None) -> LaunchSettings:
        """The launch settings of the model with that name. None, or a name without an entry: as in `defaults`.

        `mmproj` is left None (the catalogue finds the projector), and `env` does not include `engine.env`.
        """
        model = self._model(name)
        args = (*self.engine.args, *model.args)
        return LaunchSettings(model.over_arguments(args), args=args, env=dict(model.env))

    def constraints_of(self, name: str | None = None) -> PlacementConstraints:
        """The placement constraints of the model with that name. None, or a name without an entry: as in `defaults`."""
        model = self._model(name)
        return PlacementConstraints(
            gpus=tuple(model.gpus),
            exclude=tuple(model.exclude),
            min_gpus=model.min_gpus,
            max_gpus=model.max_gpus,
            has_auto_context=model.ctx_size == "auto",
            cpu_moe=model.cpu_moe == "on",
            partial_offload=model.partial_offload == "on",
            cpu_when_full=self.gpu.cpu_fallback is CpuFallback.WHEN_FULL,
        )

    def policy(self) -> Policy:
        """The order in which GPUs are used."""
        return Policy(self.gpu.strategy, tuple(self.gpu.order))

    def gpu_limits(self) -> GpuLimits:
        """The limits on each GPU's memory and utilization."""
        return GpuLimits(self.gpu.reserve, self.gpu.max_vram, self.gpu.busy_utilization)

    def _model(self, name: str | None) -> ModelSettings:
        return self.models.get(name or "", ModelSettings()).over(self.defaults)


def _first_duplicate(names: Iterator[str]) -> str | None:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]
