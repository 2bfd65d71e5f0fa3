"""The report of `check-config`: what the configuration means, or its errors. Secrets are omitted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ByteSize

from app.entities.model import Model, ModelSource, counted_by_source
from app.settings.configuration import Configuration, ConfigurationError, read_configuration
from app.settings.schema import Settings
from app.settings.values import configured_file, size_text

NOT_SHOWN = "(not shown)"


@dataclass(frozen=True, slots=True)
class ConfigurationCheck:
    """A valid configuration, or the errors of an invalid one."""

    file: Path | None
    configuration: Configuration | None
    errors: tuple[str, ...] = ()
    sources: tuple[ModelSource, ...] = ()  # of the models that were found

    @property
    def is_good(self) -> bool:
        return self.configuration is not None

    def with_errors(self, errors: Iterable[str]) -> ConfigurationCheck:
        """This check, failed if there are any errors."""
        errors = tuple(errors)
        return replace(self, configuration=None, errors=errors) if errors else self

    def with_warnings(self, warnings: Iterable[str]) -> ConfigurationCheck:
        """This check with further warnings."""
        assert self.configuration is not None
        more = replace(self.configuration, warnings=(*self.configuration.warnings, *warnings))
        return replace(self, configuration=more)

    def with_models(self, models: Iterable[Model]) -> ConfigurationCheck:
        """This check with the models that a start would find now."""
        return replace(self, sources=tuple(model.source for model in models))

    @property
    def file_exists(self) -> bool:
        return self.file is None or self.file.exists()

    def as_json(self) -> dict[str, Any]:
        configuration = self.configuration
        return {
            "ok": self.is_good,
            "file": str(self.file) if self.file else None,
            "errors": list(self.errors),
            "warnings": list(configuration.warnings) if configuration else [],
            "models": Counter(self.sources),
            "settings": _without_secrets(configuration.settings.model_dump(mode="json")) if configuration else {},
        }

    def lines(self) -> list[str]:
        """The report as text. Each error, warning and difference is one line."""
        if self.configuration is None:
            return list(self.errors)
        folders = len(self.configuration.settings.catalog.models_dirs)
        differences = list(_differences(self.configuration.settings)) or ["nothing"]
        return [
            "The configuration is valid.",
            f"Read from: {', '.join(_sources(self.configuration)) or 'nothing; these are the defaults'}",
            f"Reachable: {reach(self.configuration.settings)}",
            f"Models: {counted_by_source(self.sources, folders) if folders or self.sources else 'none'}",
            "Differs from the defaults:",
            *(f"  {line}" for line in differences),
            *(f"warning: {line}" for line in self.configuration.warnings),
        ]


def check_configuration() -> ConfigurationCheck:
    file = configured_file()
    try:
        return ConfigurationCheck(file, read_configuration())
    except ConfigurationError as error:
        return ConfigurationCheck(file, None, error.lines)


def _sources(configuration: Configuration) -> list[str]:
    return [*([str(configuration.file)] if configuration.file else []), *configuration.variables]


def reach(settings: Settings) -> str:
    """Who can use the service, in one line."""
    return f"{_clients(settings)}{_pages(settings.server.allowed_origins)}"


def _pages(origins: frozenset[str]) -> str:
    if not origins:
        return ""
    return "; by web pages of any site" if "*" in origins else f"; by web pages of {', '.join(sorted(origins))}"


def _clients(settings: Settings) -> str:
    address = f"{settings.server.host} port {settings.server.port}"
    if settings.keys:
        clients = "this machine only" if settings.server.is_loopback else "any machine"
        return f"{address}, from {clients}, with a key ({len(settings.keys)} configured)"
    if settings.is_open or settings.server.allow_open:
        return f"{address}, from any machine, without a key: no keys are configured"
    return f"{address}, from this machine only, without a key"


def _differences(settings: Settings) -> Iterator[str]:
    """The keys and values that differ from the defaults; of `keys`, `models` and `peers`, only what the user set."""
    explicit = settings.model_dump(mode="json", include={"keys", "models", "peers"}, exclude_unset=True)
    values = dict(_leaves(_without_secrets(settings.model_dump(mode="json") | explicit)))
    defaults = dict(_leaves(Settings.model_construct().model_dump(mode="json")))
    sizes = dict(_sizes(settings))
    for key, value in values.items():
        if key not in defaults or defaults[key] != value:
            yield f"{key}: {sizes.get(key) or (value if isinstance(value, str) else json.dumps(value))}"


def _sizes(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """The places of sizes, which a dump has as plain numbers, and how they are written."""
    if isinstance(value, ByteSize):
        yield place, size_text(value)
    elif isinstance(value, BaseModel | dict):
        for key, item in value if isinstance(value, BaseModel) else value.items():
            yield from _sizes(item, f"{place}.{key}" if place else str(key))


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{place}.{key}" if place else key)
    else:
        yield place, value


def _without_secrets(dumped: dict[str, Any]) -> dict[str, Any]:
    """The settings without the keys' hashes and the values of variables."""
    keys = [{name: value for name, value in key.items() if name != "sha256"} for key in dumped.get("keys", [])]
    models = {name: _without_values(model) for name, model in dumped.get("models", {}).items()}
    return dumped | {"keys": keys, "models": models, "engine": _without_values(dumped["engine"])}


def _without_values(section: dict[str, Any]) -> dict[str, Any]:
    return section | ({"env": dict.fromkeys(section["env"], NOT_SHOWN)} if "env" in section else {})
