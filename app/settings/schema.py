"""Settings: the whole configuration, declared once. Help, defaults and validation come from it and its sections.

configuration.py reads them; page.py generates docs/configuration.md. Error messages never contain a possible secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from app.entities.key import ApiKey
from app.entities.launch import EngineUse, LaunchSettings, OwnEngine
from app.entities.model_name import folded, is_glob
from app.entities.peer import Peer
from app.entities.placement import CpuFallback, GpuLimits, PlacementConstraints, Policy
from app.settings.agents import GROUP, installed_agents
from app.settings.retired_keys import without_retired_keys
from app.settings.sections.catalog import CatalogSettings
from app.settings.sections.engine import EngineSettings, UpstreamSettings
from app.settings.sections.gpu import GpuSettings
from app.settings.sections.model import ModelSettings
from app.settings.sections.model_defaults import ModelDefaults, flash_attention_need
from app.settings.sections.peers import PeerName, PeerSettings, unique_names
from app.settings.sections.scheduling import SchedulingSettings
from app.settings.sections.server import ApiKeySettings, ServerSettings
from app.settings.values import PREFIX, ModelName, Name, start_folder


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
    agents: list[Name] = Field(
        [],
        description=(
            "Functions in installed packages that change or answer chat requests whose last message contains "
            "`/NAME`: docs/agents.md."
        ),
    )

    any_of: dict[ModelName, list[ModelName]] = Field(
        {},
        description=(
            "Virtual names, each with the models that it stands for. One that is loaded answers, else the first that "
            "fits without an eviction, else the first that can be loaded; a model whose load fails is skipped. A "
            "key needs access to the models."
        ),
    )

    peers: Annotated[dict[PeerName, PeerSettings], AfterValidator(unique_names)] = Field(
        {},
        description=(
            "Other addresses by name, whose models are served here as `NAME/MODEL`, and by their own names where no "
            "model here has them: [peers.md](peers.md)."
        ),
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

    @field_validator("keys", "models", "any_of", "peers", "agents", mode="before")
    @classmethod
    def _null_means_empty(cls, value: Any, info: ValidationInfo) -> Any:
        empty: dict[str, Any] = {"keys": [], "models": {}, "any_of": {}, "peers": {}, "agents": []}
        return empty[info.field_name or ""] if value is None else value

    @field_validator("keys")
    @classmethod
    def _unique_api_keys(cls, keys: list[ApiKeySettings]) -> list[ApiKeySettings]:
        if duplicate := _first_duplicate(key.name for key in keys):
            raise ValueError(f"two keys have the name {duplicate!r}")
        if duplicate := _first_duplicate(key.sha256 for key in keys):
            names = [key.name for key in keys if key.sha256 == duplicate]
            raise ValueError(f"{' and '.join(names)} are the same key; remove one")
        return keys

    @field_validator("agents")
    @classmethod
    def _installed_agents(cls, agents: list[str]) -> list[str]:
        installed = installed_agents() if agents else {}
        if missing := [name for name in agents if name not in installed]:
            found = ", ".join(sorted(installed)) or "none"
            raise ValueError(f"{', '.join(missing)} not installed; entry points of {GROUP}: {found}")
        return agents

    @field_validator("models")
    @classmethod
    def _unique_model_names(cls, models: dict[str, ModelSettings]) -> dict[str, ModelSettings]:
        claims = {own: [*map(_claimed, model.names(own))] for own, model in models.items()}
        if duplicate := _first_duplicate(name for names in claims.values() for name in names):
            holders = [own for own, names in claims.items() if duplicate in names]
            if len(holders) == 1:
                what = "its own name" if duplicate == holders[0] else f"{duplicate!r} twice"
                raise ValueError(f"{holders[0]!r} has {what} among its aliases and variants; remove it")
            raise ValueError(
                f"{duplicate!r} is a name, alias or variant of both {' and '.join(holders)}; only one can have it"
            )
        return models

    @model_validator(mode="after")
    def _virtual_names_stand_for_models(self) -> Settings:
        for name, members in self.any_of.items():
            if not members:
                raise ValueError(f"any_of.{name}: is empty; list at least one model")
            if duplicate := _first_duplicate(iter(members)):
                raise ValueError(f"any_of.{name}: has {duplicate!r} twice; remove one")
            if nested := next((member for member in members if member in self.any_of), None):
                raise ValueError(f"any_of.{name}: {nested!r} is a virtual name itself; list its models")
            if holder := next((own for own, model in self.models.items() if name in model.names(own)), None):
                raise ValueError(f"any_of.{name}: is a name of the model {holder!r}; only one can have it")
        return self

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
    def _flash_attention_is_on_where_needed(self) -> Settings:
        for name in (None, *self.models):
            if wants := flash_attention_need(self.launch_of(name).options):
                raise ValueError(
                    f"{'defaults' if name is None else f'models.{name}'}: {wants} needs flash_attn on or auto"
                )
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

    def peer_list(self) -> tuple[Peer, ...]:
        """The peers, in the order of the configuration."""
        return tuple(peer.peer(name) for name, peer in self.peers.items())

    def launch_of(self, name: str | None = None) -> LaunchSettings:
        """The launch settings of the model with that name. None, or a name without an entry: as in `defaults`.

        `mmproj` is left None (the catalogue finds the projector), and `env` does not include `engine.env`.
        """
        model = self._model(name)
        args = model.over_args((*self.engine.args, *model.args))
        engine = self._own_engine(model)
        return LaunchSettings(model.over_arguments(args), args=args, env=dict(model.env), engine=engine)

    def _own_engine(self, model: ModelSettings) -> OwnEngine | None:
        if model.engine is None or model.engine == self.engine.binary:
            return None
        return OwnEngine(model.engine, model.env.get("LD_LIBRARY_PATH", ""))

    def own_engines(self) -> dict[OwnEngine, EngineUse]:
        """The engines that models have instead of the service's, and these models."""
        found: dict[OwnEngine, list[str]] = {}
        for name, model in self.models.items():
            if engine := self._own_engine(model):
                found.setdefault(engine, []).append(name)
        return {engine: EngineUse(tuple(names), tuple(self._may_use_gpus(names))) for engine, names in found.items()}

    def _may_use_gpus(self, names: Iterable[str]) -> Iterator[str]:
        return (name for name in names if self._model(name).n_gpu_layers != 0)

    def constraints_of(self, name: str | None = None) -> PlacementConstraints:
        """The placement constraints of the model with that name. None, or a name without an entry: as in `defaults`."""
        model = self._model(name)
        return PlacementConstraints(
            gpus=tuple(model.gpus),
            exclude=tuple(model.exclude),
            min_gpus=model.min_gpus,
            max_gpus=model.max_gpus,
            has_auto_context=model.ctx_size == "auto",
            has_auto_speculation=model.speculative == "auto",
            cpu_moe=model.cpu_moe == "on",
            partial_offload=model.partial_offload == "on",
            cpu_when_full=self.gpu.cpu_fallback is CpuFallback.WHEN_FULL,
        )

    def policy(self) -> Policy:
        """The order in which GPUs are used."""
        return Policy(self.gpu.strategy, tuple(self.gpu.order))

    def gpu_limits(self) -> GpuLimits:
        """The limits on each GPU's memory and utilization."""
        gpu = self.gpu
        return GpuLimits(gpu.reserve_bytes, gpu.max_vram, gpu.busy_utilization, gpu.reserves)

    def gpu_names(self) -> dict[str, tuple[str, ...]]:
        """What the settings call GPUs, by key."""
        models = {
            f"models.{name}.{key}": tuple(names)
            for name, model in self.models.items()
            for key, names in (("gpus", model.gpus), ("exclude", model.exclude))
        }
        return {"gpu.reserve": tuple(self.gpu.reserves), "gpu.order": tuple(self.gpu.order)} | models

    def _model(self, name: str | None) -> ModelSettings:
        return self.models.get(name or "", ModelSettings()).over(self.defaults)


def _claimed(alias: str) -> str:
    """Two globs that differ only in case claim the same names."""
    return folded(alias) if is_glob(alias) else alias


def _first_duplicate(names: Iterator[str]) -> str | None:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]
