"""llama-swap's filters as rules for requests: the fields it strips and sets, for a model or for one of its names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.use_cases.migration.remarks import Remarks

_FIXED = ("model", "stream")  # what selects the server, and how the answer is read
_KNOWN = ("stripParams", "strip_params", "setParams", "setParamsByID")


def request_rules(filters: Any, remarks: Remarks) -> dict[str, Any]:
    """`requests` of a model, and under "by_name" what each name sets: whose they are is decided with the aliases."""
    if not isinstance(filters, Mapping):
        return {}
    for key in filters:
        if key not in _KNOWN:
            remarks.dropped(f"filters.{key}", "rules for requests do not depend on what they contain")
    rules = {
        "strip": _stripped(filters.get("stripParams") or filters.get("strip_params"), remarks),
        "set": _fields(filters.get("setParams"), "filters.setParams", remarks),
    }
    by_name = filters.get("setParamsByID")
    variants = {
        name: _fields(fields, "filters.setParamsByID", remarks)
        for name, fields in (by_name.items() if isinstance(by_name, Mapping) else ())
    }
    requests = {key: value for key, value in rules.items() if value}
    return ({"requests": requests} if requests else {}) | ({"by_name": variants} if variants else {})


def _stripped(names: Any, remarks: Remarks) -> list[str]:
    fields = [name.strip() for name in names.split(",")] if isinstance(names, str) else []
    if "stream" in fields:
        remarks.dropped("filters.stripParams", "the field stream cannot be removed")
    return list(dict.fromkeys(field for field in fields if field and field not in _FIXED))


def _fields(fields: Any, what: str, remarks: Remarks) -> dict[str, Any]:
    if not isinstance(fields, Mapping):
        return {}
    if "stream" in fields:
        remarks.dropped(what, "the field stream cannot be changed")
    return {name: value for name, value in fields.items() if name not in _FIXED}
