"""Names of installed engines on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from app.commands.options import exit_no
from app.terminal.text import printable

if TYPE_CHECKING:
    from app.entities.engines import InstalledEngine

AUTO = "auto"


def complete_engine(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from workers.engine.installed_engines import installed_engines
    from workers.folders import cache_folder

    names = [engine.name for engine in installed_engines(cache_folder())]
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def installed_or_exit(name: str) -> InstalledEngine:
    """The engine of that name; else the command ends with the names that there are."""
    from workers.engine.installed_engines import installed_engines
    from workers.folders import cache_folder

    engines = installed_engines(cache_folder())
    for engine in engines:
        if engine.name == name:
            return engine
    known = ", ".join(engine.name for engine in engines) or "none; `llama-smart-proxy engine install` builds one"
    exit_no(f"no engine {printable(name)!r} is installed; installed: {known}")


def engine_json(engine: InstalledEngine, chosen: str) -> dict[str, Any]:
    return {
        "name": engine.name,
        "version": engine.version,
        "backend": str(engine.backend),
        "architectures": list(engine.architectures),
        "instruction_set": str(engine.instruction_set),
        "source": engine.source,
        "size_bytes": engine.size_bytes,
        "path": engine.binary,
        "chosen": engine.name == chosen,
    }
