"""RequestRules: how the fields of a request's body are changed before it goes to the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Fields = Mapping[str, Any]  # JSON values by name

SYSTEM_PROMPT = "system_prompt"  # stands for wherever the API of the request has it


@dataclass(frozen=True, slots=True)
class RequestRules:
    """`strip` removes fields, then `default` fills in what is missing or null, then `set` overrides.

    An object is merged into the object that the body has under its name. Not part of a model's launch.
    """

    set: Fields = field(default_factory=dict)
    default: Fields = field(default_factory=dict)
    strip: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.set or self.default or self.strip)

    def overridden_by(self, other: RequestRules) -> RequestRules:
        """Both together; of two values of a field, that of `other`."""
        return RequestRules(merged(self.set, other.set), merged(self.default, other.default), self.strip | other.strip)


def merged(below: Fields, above: Fields) -> Fields:
    """All fields of both; objects under the same name are merged, too."""
    inner = {
        name: merged(below[name], value)
        for name, value in above.items()
        if isinstance(value, Mapping) and isinstance(below.get(name), Mapping)
    }
    return {**below, **above, **inner}
