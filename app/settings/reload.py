"""What a reload of the configuration changes: the keys that differ, and those whose changes wait for a restart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from app.settings.configuration import OPEN_WITHOUT_KEYS, ConfigurationError
from app.settings.schema import Settings
from app.settings.schema_keys import Place, format_place, is_section, needs_restart, section_in

OPEN_UNTIL_RESTART = "; server.* changes take effect at the next start"


def applicable_settings(new: Settings, running: Settings) -> Settings:
    """The new settings, with the running ones for all keys that need a restart.

    Raises ConfigurationError if the service would be open then: the address it listens on is the running one.
    """
    for place in restart_places():
        new = _with_value(new, place, _value_at(running, place))
    new = new.model_copy(update={"scheduling": new.scheduling.fitting(new.server)})
    if new.is_open and not new.server.allow_open:
        raise ConfigurationError(OPEN_WITHOUT_KEYS.format(host=new.server.host) + OPEN_UNTIL_RESTART)
    return new


def pending_restart(new: Settings, running: Settings) -> tuple[str, ...]:
    """The keys whose new values take effect only at the next start."""
    return tuple(
        format_place(place) for place in restart_places() if _value_at(new, place) != _value_at(running, place)
    )


def changed_keys(before: Settings, after: Settings) -> tuple[str, ...]:
    """The keys that differ, without values, which may be secrets. An entry that only one has is one key."""
    return tuple(format_place(place) for place in _differences(before.model_dump(), after.model_dump()))


def restart_places(section: type[BaseModel] = Settings, below: Place = ()) -> Iterator[Place]:
    """The places of the keys that need a restart; none is inside a list or a map."""
    for name, field in section.model_fields.items():
        inner = section_in(field)
        if inner is not None and is_section(field):
            yield from restart_places(inner, (*below, name))
        elif below and needs_restart(section, field):
            yield (*below, name)


def _value_at(settings: Any, place: Place) -> Any:
    for part in place:
        settings = getattr(settings, str(part))
    return settings


def _with_value(section: Any, place: Place, value: Any) -> Any:
    name, rest = str(place[0]), place[1:]
    inner = _with_value(getattr(section, name), rest, value) if rest else value
    return section.model_copy(update={name: inner})


def _differences(before: Any, after: Any, place: Place = ()) -> Iterator[Place]:
    if not isinstance(before, dict) or not isinstance(after, dict):
        if before != after:
            yield place
        return
    for key in dict.fromkeys((*before, *after)):
        if key in before and key in after:
            yield from _differences(before[key], after[key], (*place, key))
        else:
            yield (*place, key)
