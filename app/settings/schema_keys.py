"""The keys of the settings and their places, for hints, environment names and the reference page."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from app.settings.schema import Settings
from app.settings.values import Reload, Section

Place = tuple[str | int, ...]  # ("keys", 0, "name")

_MAP = "map"  # the tag of a union's member that is a section, which pydantic puts into the place of an error
SIMILARITY_CUTOFF = 0.65  # of difflib's ratio: `prot` is near `port`, `gpus` is not near `args`


def format_place(place: Place) -> str:
    """The place as users write it, such as keys[0].name."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{_plain(part)}" for part in place).removeprefix(".")


def _plain(part: str) -> str:
    """The part, quoted if it has line breaks, invisible characters or outer spaces: users choose models' names."""
    return part if part.isprintable() and part == part.strip() else repr(part)


def section_in(field: FieldInfo) -> type[Section] | None:
    """The section that a key holds, directly or as the entries of its list or map; None if it holds no section."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


def _section_among(field: FieldInfo) -> type[Section] | None:
    """The section that a key may hold instead of a word."""
    inner = (kind for member in get_args(field.annotation) for kind in get_args(member)[:1])
    return next((kind for kind in inner if isinstance(kind, type) and issubclass(kind, Section)), None)


def is_section(field: FieldInfo) -> bool:
    return section_in(field) is field.annotation


def holds_many(field: FieldInfo) -> bool:
    """Whether the key holds a list or a map."""
    return get_origin(field.annotation) in (list, dict)


def keys(section: type[BaseModel] = Settings, below: Place = ()) -> Iterator[tuple[Place, FieldInfo]]:
    """Every key with a fixed place, which excludes the entries of lists and maps."""
    for name, field in section.model_fields.items():
        place = (*below, name)
        yield place, field
        inner = section_in(field)
        if inner is not None and is_section(field):
            yield from keys(inner, place)


def needs_restart(section: type[BaseModel], field: FieldInfo) -> bool:
    """Whether a change of this key of the section takes effect only at the next start."""
    assert issubclass(section, Section)
    marks = (mark for mark in field.metadata if isinstance(mark, Reload))
    return not next(marks, section.reload).is_enough


def known_part(place: Place) -> tuple[Place, type[BaseModel] | None]:
    """The part of an error's place that exists in the file, and the section at its end, if any.

    pydantic appends the member of a union, or the side of a map's entry.
    """
    section: type[BaseModel] | None = Settings
    kept: list[str | int] = []
    parts = iter(place)
    for part in parts:
        kept.append(part)
        field = section.model_fields.get(str(part)) if section is not None else None
        if field is None:
            break
        section = section_in(field)
        if holds_many(field):
            kept += [entry for _, entry in zip(range(1), parts, strict=False)]
        elif section is None and (section := _section_among(field)) is not None and next(parts, "") != _MAP:
            break
        if section is None:
            break
    return tuple(kept), section


def section_at(place: Place) -> type[BaseModel] | None:
    """The section at that place."""
    return known_part(place)[1]


def nearest_key(place: Place) -> str:
    """A "did you mean" hint for an unknown key; empty if no known key is similar."""
    section = section_at(place[:-1]) or Settings
    known, unknown = list(section.model_fields), str(place[-1])
    near = difflib.get_close_matches(unknown, known, n=1, cutoff=SIMILARITY_CUTOFF)
    near = near or [key for key in known if _words(key) & _words(unknown)]
    elsewhere = [known_place for known_place, _ in keys() if known_place[-1] == place[-1]]
    if len(near) == 1:
        return f"; did you mean {format_place((*place[:-1], near[0]))}?"
    return f"; did you mean {format_place(elsewhere[0])}?" if len(elsewhere) == 1 else ""


def _words(key: str) -> set[str]:
    """The words of a key without single letters, such as the n of n_ctx."""
    return {word for word in key.lower().split("_") if len(word) > 1}


def may_be_secret(place: Place) -> bool:
    """Whether the value at that place must not be shown: it may contain an API key, even by mistake."""
    return place[:1] in (("keys",), ("peers",)) or bool({"env", "args"} & set(place))


def default_of(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True)
