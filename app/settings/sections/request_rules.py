"""Settings of the fields in the bodies of requests."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from app.entities.request_rules import SYSTEM_PROMPT, RequestRules
from app.settings.values import Name, Section
from app.use_cases.body_checks.constraints import excessive_constraint

# What selects the server, and in which form the client reads the answer.
FIXED = ("model", "stream")


def _check_field(name: str) -> str:
    if name in FIXED:
        raise ValueError(f"{name} cannot be changed")
    if "." in name:
        raise ValueError(f"no field of a request; write an inner field as a map: {_nested(name)}")
    return name


def _nested(name: str) -> str:
    outer, _, inner = name.partition(".")
    return f"{outer}: {{{inner}: ...}}"


def _check_values(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields as JSON has them: the engine must accept them from a client, too."""
    if SYSTEM_PROMPT in fields and not isinstance(fields[SYSTEM_PROMPT], str):
        raise ValueError(f"{SYSTEM_PROMPT} must be text")
    try:
        text = json.dumps(fields, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"not a JSON value: {error}") from error
    if found := excessive_constraint(json.loads(text, object_pairs_hook=tuple, parse_int=float)):
        raise ValueError(f"{found.param}: {found.message}")
    as_json: dict[str, Any] = json.loads(text)
    return as_json


FieldName = Annotated[Name, AfterValidator(_check_field)]
Fields = Annotated[dict[FieldName, Any], AfterValidator(_check_values)]


class RequestRuleSettings(Section):
    """How the JSON bodies of requests are changed."""

    set: Fields = Field(
        {},
        description=(
            "Fields that override those of the body. Maps are merged. `system_prompt`: the system prompt, wherever "
            "the API has it. Not `model` or `stream`."
        ),
    )
    default: Fields = Field({}, description="Fields for bodies that lack them, or have null.")
    strip: list[FieldName] = Field([], description="Fields that are removed, before the others are added.")

    def rules(self) -> RequestRules:
        return RequestRules(self.set, self.default, frozenset(self.strip))
