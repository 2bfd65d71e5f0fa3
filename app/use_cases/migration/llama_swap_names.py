"""Which name belongs to which model: aliases, and names with parameters of their own, which become variants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from app.entities.model_name import folded, is_glob
from app.use_cases.migration.remarks import Remark, Remarks

MAX_LENGTH = 512


def with_names(
    models: Mapping[str, dict[str, Any]], entries: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any]], list[Remark]]:
    """The models with their aliases and variants; a name that cannot be one, or is another model's, is left out."""
    found: list[Remark] = []
    usable: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        if why := _why_not(name):
            found += _remark(name, "", why)
        else:
            usable[name] = model
    taken = {*map(_claim, usable)}
    for name, model in usable.items():
        remarks = Remarks(name)
        usable[name] = _with_own_names(name, model, entries[name], taken, remarks)
        found += remarks.found
    return usable, found


def _remark(subject: str, what: str, why: str) -> list[Remark]:
    remarks = Remarks(subject)
    remarks.dropped(what, why)
    return remarks.found


def _with_own_names(
    name: str, model: dict[str, Any], entry: Mapping[str, Any], taken: set[str], remarks: Remarks
) -> dict[str, Any]:
    own = dict(model)
    by_name = own.pop("by_name", {})
    if mine := by_name.pop(name, None):
        requests = own.get("requests", {})
        own["requests"] = requests | {"set": requests.get("set", {}) | mine}
        if by_name or entry.get("aliases"):
            remarks.changed("filters.setParamsByID", f"what {name} sets applies to its other names, too")
    variants = {alias: {"set": fields} for alias, fields in by_name.items() if _take(alias, taken, remarks)}
    aliases = [alias for alias in _aliases(entry, remarks) if alias not in variants and _take(alias, taken, remarks)]
    return own | ({"aliases": aliases} if aliases else {}) | ({"variants": variants} if variants else {})


def _aliases(entry: Mapping[str, Any], remarks: Remarks) -> Iterator[str]:
    """llama-swap has names, or mappings with an `id`."""
    aliases = entry.get("aliases")
    for alias in aliases if isinstance(aliases, list) else ():
        name = alias.get("id") if isinstance(alias, Mapping) else alias
        if isinstance(name, str | int | float):
            yield str(name)
        else:
            remarks.dropped("aliases", "an entry is not a name")


def _take(alias: str, taken: set[str], remarks: Remarks) -> bool:
    """Whether the name is free; it is not any more."""
    why = _why_not(alias) or ("it is already a name of a model" if _claim(alias) in taken else "")
    if why:
        remarks.dropped(f"the name {alias}", why)
        return False
    taken.add(_claim(alias))
    return True


def _claim(name: str) -> str:
    """Two globs that differ only in case claim the same names."""
    return folded(name) if is_glob(name) else name


def _why_not(name: str) -> str:
    if "," in name:
        return "a name must not contain a comma"
    if not 0 < len(name) <= MAX_LENGTH or name != name.strip() or not name.isprintable():
        return f"a name must have 1 to {MAX_LENGTH} printable characters, without leading or trailing spaces"
    return ""
