"""The valid part of settings that a program wrote, with what had to be left out."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from app.settings.error_messages import error_messages
from app.settings.schema import Settings
from app.settings.schema_keys import Place

_SOURCES = ("path", "repo")


class _FileAlone(Settings):
    """The settings of a file, whatever the environment says."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


class NoValidPart(Exception):
    """What is wrong concerns the settings as a whole."""


def valid_part(data: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[Place, str]]]:
    """The data without the keys that are not valid, and the place and message of each. Raises NoValidPart."""
    left_out: list[tuple[Place, str]] = []
    while error := _error(data):
        problems = [(_key(place), message) for place, message in error_messages(error)]
        smaller = data
        for key, _ in problems:
            smaller = _without(smaller, key)
        if smaller == data:
            raise NoValidPart(problems[0][1])
        data = smaller
        left_out += problems
    return data, left_out


def _error(data: dict[str, Any]) -> ValidationError | None:
    try:
        _FileAlone(**data)
    except ValidationError as error:
        return error
    return None


def _key(place: Place) -> Place:
    """What to leave out: no item of a list alone, and a model that has lost its file as a whole."""
    number = next((index for index, part in enumerate(place) if isinstance(part, int)), len(place))
    place = place[:number]
    return place[:2] if place[0:1] == ("models",) and place[2:3] and place[2] in _SOURCES else place


def _without(data: Any, place: Place) -> Any:
    if not place or not isinstance(data, dict) or place[0] not in data:
        return data
    first, *rest = place
    if not rest:
        return {key: value for key, value in data.items() if key != first}
    return data | {first: _without(data[first], tuple(rest))}
