"""What llama-swap says about several models: preloading, priorities, groups, and names that stand for several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from app.use_cases.migration.remarks import Remarks

MEMORY = "models are loaded together as long as they fit, and idle ones are evicted for others"


def routing(
    data: Mapping[str, Any], models: dict[str, dict[str, Any]], entries: Mapping[str, Any], remarks: Remarks
) -> dict[str, Any]:
    """`any_of` for the whole file; `preload` and `priority` are set in `models`."""
    names = {alias: name for name, model in models.items() for alias in (name, *_names(model))}
    for name in _preloaded(data):
        _set(models, names.get(name), "preload", True, remarks, f"hooks.on_startup.preload {name}")
    fifo = _below(data, "routing", "scheduler", "settings", "fifo", "priority")
    for name, priority in fifo.items() if isinstance(fifo, Mapping) else ():
        _set(models, names.get(name), "priority", priority, remarks, f"priority of {name}")
    _remark_on_groups(data, remarks)
    return _virtual_names(data.get("selectors"), names, remarks)


def _names(model: Mapping[str, Any]) -> Iterator[str]:
    yield from model.get("aliases", ())
    yield from model.get("variants", ())


def _below(data: Any, *keys: str) -> Any:
    for key in keys:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data


def _preloaded(data: Mapping[str, Any]) -> list[str]:
    names = _below(data, "hooks", "on_startup", "preload")
    return [str(name).strip() for name in names] if isinstance(names, list) else []


def _set(
    models: dict[str, dict[str, Any]], name: str | None, key: str, value: Any, remarks: Remarks, what: str
) -> None:
    if name is None:
        remarks.dropped(what, "no such model was converted")
    else:
        models[name] = models[name] | {key: value}


def _remark_on_groups(data: Mapping[str, Any], remarks: Remarks) -> None:
    settings = _below(data, "routing", "router", "settings")
    settings = settings if isinstance(settings, Mapping) else {}
    nested = {f"routing.router.settings.{key}": value for key, value in settings.items()}
    for key in nested:
        remarks.unneeded(key, MEMORY)
    groups = (nested.get("routing.router.settings.groups"), data.get("groups"))
    for group in (group for found in groups if isinstance(found, Mapping) for group in found.values()):
        members = _below(group, "members")
        if _below(group, "persistent") is True and isinstance(members, list):
            remarks.dropped(
                f"persistent ({', '.join(map(str, members))})", "to keep a model loaded whatever comes, set pin: true"
            )


def _virtual_names(selectors: Any, names: Mapping[str, str], remarks: Remarks) -> dict[str, Any]:
    """llama-swap's selectors as `any_of`, which prefers a model that is loaded."""
    any_of = {}
    for selector, entry in selectors.items() if isinstance(selectors, Mapping) else ():
        targets = _below(entry, "targets")
        members = (
            [names[str(target)] for target in targets if str(target) in names] if isinstance(targets, list) else []
        )
        if not members or selector in names or "," in selector:
            remarks.dropped(f"selectors.{selector}", "it has no model that was converted, or the name of one")
            continue
        if (strategy := _below(entry, "strategy")) != "warm":
            remarks.changed(f"selectors.{selector}", f"any_of takes a model that is loaded, instead of {strategy}")
        any_of[selector] = list(dict.fromkeys(members))
    return {"any_of": any_of} if any_of else {}
