"""Settings: declared once, here. Help, defaults and validation all come from these classes.

A value comes from, strongest first: `LLAMA_SMART_PROXY_*` in the environment (nesting by `__`), the YAML or JSON
file named by LLAMA_SMART_PROXY_CONFIG, the default. Command line options are written to the environment, so the
strongest is what was typed.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, YamlConfigSettingsSource

PREFIX = "LLAMA_SMART_PROXY_"
OUTSIDE_THE_SCHEMA = {"CONFIG", "URL"}  # names with our prefix that are not settings

# llama-server takes its options from LLAMA_ARG_* too: those that run commands, read files or replace our own key.
DENIED_ENVIRONMENT = re.compile(
    r"^LLAMA_(ARG_.*(TOOLS|MCP|AGENT|MEDIA_PATH|CORS_PROXY|HOST|PORT|API_KEY)|API_KEY|SERVER_)"
)

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"]


class ConfigurationError(Exception):
    """The settings cannot be used; the text says where and what to write instead."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSettings(_Section):
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 lets the system choose one.")
    threads: int = Field(512, ge=4, description="Threads that answer requests; each waiting or running one holds one.")
    reserve_threads: int = Field(
        16, ge=1, description="Threads that inference never takes: health checks stay answered."
    )
    max_body: ByteSize = Field(ByteSize(256 * 1024**2), description="Largest request body.")
    receive_timeout_seconds: float = Field(
        10.0, gt=0, description="Time for a request's headers, and for silence in its body."
    )
    drain_seconds: float = Field(30.0, ge=0, description="How long running streams may go on after the order to stop.")
    stop_seconds: float = Field(10.0, gt=0, description="How long a llama-server may take to end before it is killed.")

    @model_validator(mode="after")
    def _threads_exceed_the_reserve(self) -> ServerSettings:
        if self.reserve_threads > self.threads - 2:
            raise ValueError(f"reserve_threads ({self.reserve_threads}) must be below threads ({self.threads}) - 1")
        return self


class EngineSettings(_Section):
    binary: str = Field(
        "auto", description="auto (llama-server on PATH, else the embedded engine), embedded, or a path."
    )
    env: dict[str, str] = Field({}, description="Environment variables every llama-server gets.")

    @field_validator("env")
    @classmethod
    def _opens_no_door(cls, env: dict[str, str]) -> dict[str, str]:
        for name in env:
            if DENIED_ENVIRONMENT.search(name.upper()):
                raise ValueError(f"{name} may not be set: it would open what the proxy keeps shut")
        return env


class CatalogSettings(_Section):
    models_dirs: list[Path] = Field(
        [],
        description="Folders whose *.gguf files are served, each under its file's name. `~` is home; a relative path "
        "starts at the configuration file's folder.",
    )

    @field_validator("models_dirs")
    @classmethod
    def _absolute(cls, folders: list[Path]) -> list[Path]:
        file = _config_file()
        start = file.absolute().parent if file else Path.cwd()
        return [start / folder.expanduser() for folder in folders]


class UpstreamSettings(_Section):
    first_byte_seconds: float = Field(600.0, gt=0, description="How long a llama-server may take to begin its answer.")
    stall_seconds: float = Field(300.0, gt=0, description="How long an answer that has begun may pause.")


class SchedulingSettings(_Section):
    max_waiting: int = Field(256, ge=1, description="Requests that may wait, all models together.")
    max_waiting_per_model: int = Field(128, ge=1, description="Requests that may wait for one model.")
    max_wait_seconds: float = Field(300.0, gt=0, description="How long a request waits for a slot.")
    ttl_seconds: float = Field(900.0, gt=0, description="An idle model is unloaded after this long.")
    stall_timeout_seconds: float = Field(
        300.0, gt=0, description="How long a load may show no progress before it is ended."
    )


class ModelDefaults(_Section):
    ctx_size: Literal["auto"] | PositiveInt = Field(
        "auto", description="Context in tokens, all slots together; auto means 4096."
    )
    parallel: int = Field(4, ge=1, description="Slots: requests a model answers at the same time.")
    kv_unified: bool = Field(True, description="Slots share one KV cache, so that each may use all of the context.")
    ubatch_size: int = Field(512, ge=1, description="Tokens computed at a time; the compute buffer grows with it.")
    cache_type_k: CacheType = Field("f16", description="Type of the K cache.")
    cache_type_v: CacheType = Field("f16", description="Type of the V cache.")
    flash_attn: Literal["on", "off", "auto"] = Field("auto", description="Flash attention.")


def _config_file() -> Path | None:
    name = os.environ.get(PREFIX + "CONFIG")
    return Path(name) if name else None


class Settings(BaseSettings):
    """Every setting of the service. Frozen: a reload makes a new value."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True)

    server: ServerSettings = ServerSettings()
    engine: EngineSettings = EngineSettings()
    catalog: CatalogSettings = CatalogSettings()
    upstream: UpstreamSettings = UpstreamSettings()
    scheduling: SchedulingSettings = SchedulingSettings()
    defaults: ModelDefaults = ModelDefaults()

    @model_validator(mode="after")
    def _the_queue_fits_the_threads(self) -> Settings:
        room = self.server.threads - self.server.reserve_threads
        if "max_waiting" not in self.scheduling.model_fields_set:
            # The default adapts; a number that was asked for is kept or refused.
            fitting = self.scheduling.model_copy(update={"max_waiting": min(self.scheduling.max_waiting, room - 1)})
            object.__setattr__(self, "scheduling", fitting)
        elif self.scheduling.max_waiting >= room:
            raise ValueError(
                f"scheduling.max_waiting ({self.scheduling.max_waiting}) must be below server.threads - "
                f"server.reserve_threads ({room}): every waiting request holds a thread"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], *, env_settings: PydanticBaseSettingsSource, **_: object
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = _config_file()
        if file is None:
            return (env_settings,)
        return env_settings, YamlConfigSettingsSource(settings_cls, yaml_file=file)  # JSON is YAML too


def load_settings() -> Settings:
    """The settings of this process. Raises ConfigurationError with one line for each thing that is wrong."""
    file = _config_file()
    if file is not None and not file.is_file():
        raise ConfigurationError(f"{PREFIX}CONFIG={file}: no such file")
    if unknown := sorted(_unknown_names()):
        raise ConfigurationError("\n".join(unknown))
    try:
        return Settings()
    except ValidationError as error:
        source = f"{file}: " if file else ""
        raise ConfigurationError("\n".join(source + line for line in _readable(error))) from error
    except Exception as error:  # a file that is not YAML, a JSON value in the environment that does not parse
        raise ConfigurationError(f"{file or 'environment'}: {error}") from error


def _readable(error: ValidationError) -> Iterator[str]:
    for problem in error.errors():
        place = [str(part) for part in problem["loc"]]
        if problem["type"] == "extra_forbidden":
            yield f"{'.'.join(place)}: unknown key{_nearest('.'.join(place), list(_names()))}"
        else:
            yield f"{'.'.join(place)}: {problem['msg']}" if place else problem["msg"].removeprefix("Value error, ")


def _names() -> Iterator[str]:
    """Every key, as "server.port"."""
    for section, info in Settings.model_fields.items():
        assert isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)
        yield from (f"{section}.{key}" for key in info.annotation.model_fields)


def _unknown_names() -> Iterator[str]:
    """Complaints about environment names with our prefix that mean nothing: pydantic-settings passes over them."""
    sections = {name.split(".")[0].upper() for name in _names()}
    known = {name.replace(".", "__").upper() for name in _names()} | sections | OUTSIDE_THE_SCHEMA
    for variable in os.environ:
        name = variable.removeprefix(PREFIX)
        if (
            name == variable
            or name.upper() in known
            or any(name.upper().startswith(f"{k}__") for k in known - sections)
        ):
            continue
        yield f"{variable}: unknown name{_nearest(variable, [PREFIX + k for k in known])}"


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def configuration_page() -> str:
    """docs/configuration.md: every key with its default and meaning."""
    lines = [
        "# Configuration",
        "",
        "A value comes from, strongest first: the command line, `LLAMA_SMART_PROXY_*` in the environment (nesting by",
        "`__`: `LLAMA_SMART_PROXY_SERVER__PORT=9000`), the YAML or JSON file named by `--config` or",
        "`LLAMA_SMART_PROXY_CONFIG`, the default. Every key has a default; an unknown one is an error that names the",
        "nearest known key. Lists and maps in the environment are JSON.",
        "",
    ]
    for section, info in Settings.model_fields.items():
        assert isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)
        lines += [f"## {section}", "", "| key | default | meaning |", "|---|---|---|"]
        lines += [_row(key, field.default, field.description) for key, field in info.annotation.model_fields.items()]
        lines.append("")
    return "\n".join(lines)


def _row(key: str, default: object, description: str | None) -> str:
    shown = default.human_readable() if isinstance(default, ByteSize) else json.dumps(default)
    return f"| `{key}` | `{shown}` | {description} |"


if __name__ == "__main__":
    print(configuration_page(), end="")
