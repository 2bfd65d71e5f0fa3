"""The configuration of this process, and its errors.

Sources, from highest to lowest precedence: `LLAMA_SMART_PROXY_*` in the environment (nesting by `__`), the YAML or JSON
file named by LLAMA_SMART_PROXY_CONFIG, the default. Command line options are written to the environment and so have the
highest precedence.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import SettingsError

from app.settings import original
from app.settings.error_messages import error_line, error_messages
from app.settings.file import InvalidSettingsFile, parse_json, read_file
from app.settings.retired_keys import RETIRED, find_retired_keys
from app.settings.schema import Settings
from app.settings.schema_keys import SIMILARITY_CUTOFF, Place, holds_many, keys, section_in
from app.settings.values import PREFIX, configured_file
from app.settings.warnings import settings_warnings

OUTSIDE_THE_SCHEMA = {"CONFIG", "URL", "API_KEY"}  # names with our prefix that are not settings

OPEN_WITHOUT_KEYS = (
    "server.host is {host}, which other machines may reach, and no keys are configured: anyone could use the models. "
    "Set keys, or server.host: 127.0.0.1, or, to permit open access, server.allow_open: true "
    "(LLAMA_SMART_PROXY_SERVER__ALLOW_OPEN=true)"
)


class ConfigurationError(Exception):
    """The settings are not valid. One line per error, with its place and how to fix it."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings, their sources, and warnings for the operator."""

    settings: Settings
    file: Path | None
    variables: tuple[str, ...]  # names in the environment that set something
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Variable:
    """One environment variable that sets a key."""

    name: str
    place: Place
    value: Any = field(repr=False)  # may be a secret

    @property
    def is_retired(self) -> bool:
        return self.place in [key.place for key in RETIRED]

    def below(self, place: Place) -> bool:
        return len(self.place) > len(place) and self.place[: len(place)] == place


@dataclass(frozen=True, slots=True)
class _Sources:
    file: Path | None
    written: original.FileSettings
    variables: tuple[_Variable, ...]

    def of(self, place: Place) -> list[str]:
        """The sources of the value at that place: a variable or the file, or several that each set a part of it."""
        below = [variable.name for variable in self.variables if place and variable.below(place)]
        direct = [variable.name for variable in self.variables if _holds(variable.value, variable.place, place)][-1:]
        file = [str(self.file)] if self.file and _holds(self.written.data, (), place) else []
        if found := below + direct + file if below else direct or file:
            return found
        return self.of(place[:-1]) if place else []  # a missing key: the sources of its section

    def line(self, place: Place, message: str) -> str:
        """The error, with the source and the place's name in that source."""
        sources = self.of(place)
        alone = [variable.place for variable in self.variables if [variable.name] == sources]
        if alone == [place]:  # the variable's name is the place
            return f"{sources[0]}: {message}"
        place = place if alone else self.written.original_place(place)
        return ": ".join([*([", ".join(sources)] if sources else []), error_line(place, message)])


def load_settings() -> Settings:
    """The settings of this process. Raises ConfigurationError."""
    return read_configuration().settings


def read_configuration() -> Configuration:
    """The settings, their sources and warnings. Raises ConfigurationError with one line per error."""
    file = configured_file()
    try:
        written = original.translate(read_file(file) if file else {}, os.environ)
    except InvalidSettingsFile as broken:
        raise ConfigurationError(f"{file}: {broken}") from None
    variables, wrong = _variables()
    sources = _Sources(file, written, variables)
    settings, more = _validated(sources)
    if settings is None or wrong:
        raise ConfigurationError(*wrong, *more)
    settings, open_warning = _guard_open_access(settings, written.is_original, sources)
    doubts = [sources.line(*each) for each in settings_warnings(settings)]
    warnings = (*written.warnings, *_retired_warnings(sources), *open_warning, *doubts)
    return Configuration(
        settings, file, tuple(variable.name for variable in variables if not variable.is_retired), warnings
    )


def variable_names() -> dict[str, tuple[Place, FieldInfo]]:
    """Every environment variable that sets a key, with its place."""
    return {variable_name(place): (place, info) for place, info in keys()}


def variable_name(place: Place) -> str:
    return PREFIX + "__".join(map(str, place)).upper()


def _retired_warnings(sources: _Sources) -> list[str]:
    """One line per retired key that is still set."""
    found = find_retired_keys(sources.written.data)
    for variable in sources.variables:
        found |= find_retired_keys(_nested(variable.place, variable.value))
    return [sources.line(place, key.warning) for place, key in found.items()]


def _nested(place: Place, value: Any) -> Any:
    """`value` as a part of the settings: {"server": {"cpu": value}}."""
    for part in reversed(place):
        value = {part: value}
    return value


def _validated(sources: _Sources) -> tuple[Settings | None, list[str]]:
    data = sources.written.data
    if private := [key for key in data if key.startswith("_")]:  # pydantic-settings has private options of such names
        return None, [sources.line((key,), "unknown key") for key in private]
    try:
        return Settings(**data), []
    except ValidationError as error:
        return None, [
            sources.line(place, message) for place, message in error_messages(error) if not _is_unknown_variable(place)
        ]
    except SettingsError:  # a variable that is not JSON
        return None, []  # reported by `_variables`


def _is_unknown_variable(place: Place) -> bool:
    """Whether the place is an unknown variable, which `_variables` reports; pydantic-settings takes it for a key."""
    name = variable_name(place)
    return name not in variable_names() and name in {variable.upper() for variable in os.environ}


def _guard_open_access(settings: Settings, is_original: bool, sources: _Sources) -> tuple[Settings, tuple[str, ...]]:
    """Refuse to open a machine to a network by accident; warn for the original service, which was always open."""
    if not settings.is_open or settings.server.allow_open:
        return settings, ()
    message = OPEN_WITHOUT_KEYS.format(host=settings.server.host)
    if not is_original:
        raise ConfigurationError(": ".join([*sources.of(("server", "host")), message]))
    server = settings.server.model_copy(update={"allow_open": True})
    return settings.model_copy(update={"server": server}), (message,)


# --- environment ------------------------------------------------------------------------------------------------


def _variables() -> tuple[tuple[_Variable, ...], list[str]]:
    """The variables, sections before their keys, and the errors in them.

    pydantic-settings reads the values again. It ignores unknown names and does not report the source of a value.
    """
    known = variable_names()
    found: list[_Variable] = []
    wrong: list[str] = []
    for variable in sorted(name for name in os.environ if name.upper().startswith(PREFIX)):
        name = variable.upper()
        if name.removeprefix(PREFIX) in OUTSIDE_THE_SCHEMA:
            continue
        if retired := [key for key in RETIRED if variable_name(key.place) == name]:
            found.append(_Variable(variable, retired[0].place, os.environ[variable]))
            continue
        if name not in known:
            wrong.append(f"{variable}: unknown name{_nearest_variable(name, list(known))}")
            continue
        place, info = known[name]
        try:
            found.append(_Variable(variable, place, _value(os.environ[variable], info)))
        except InvalidSettingsFile as broken:
            wrong.append(f"{variable}: not JSON ({broken}); {_as_json(info)}")
    return tuple(sorted(found, key=lambda variable: len(variable.place))), wrong


def _value(text: str, info: FieldInfo) -> Any:
    """Sections, lists and maps are JSON; anything else is text, except `null`."""
    if section_in(info) or holds_many(info):
        return parse_json(text)
    return None if text == "null" else text


def _as_json(info: FieldInfo) -> str:
    """How to write a list or map."""
    return 'a list is written ["one", "two"]' if get_origin(info.annotation) is list else 'write {"key": "value"}'


def _nearest_variable(name: str, known: list[str]) -> str:
    above, _, last = name.rpartition("__")
    sections = {key.rpartition("__")[0] for key in known}
    for whole in known:  # models.NAME.ctx_size has no variable of its own
        if name.startswith(f"{whole}__") and whole not in sections:
            return f"; lists and maps are JSON: {whole}"
    if near := difflib.get_close_matches(name, known, n=1, cutoff=0.9):  # SERVER_PORT: one underscore
        return f"; did you mean {near[0]}?"
    # Compare only the last part: the common prefix would make every name similar.
    ends = {key.rpartition("__")[2].removeprefix(PREFIX): key for key in known if key.startswith(f"{above}__")}
    end = last.removeprefix(PREFIX)
    near = [ends[match] for match in difflib.get_close_matches(end, list(ends), n=1, cutoff=SIMILARITY_CUTOFF)]
    near = near or [key for key in known if key.endswith(f"__{end}")]
    return f"; did you mean {near[0]}?" if len(near) == 1 else ""


def _holds(value: Any, start: Place, place: Place) -> bool:
    """Whether `value`, located at `start`, sets something at `place`."""
    if place[: len(start)] != start:
        return False
    for part in place[len(start) :]:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True
