"""Engines that `engine install` built, in the cache directory: engines/NAME/{bin/llama-server, engine.json}.

The file `engines/in-use` names the one that `engine use` chose. Reads alone; `workers/engine_builds` writes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from app.entities.engines import Backend, InstalledEngine, InstructionSet

DESCRIPTION = "engine.json"
IN_USE = "in-use"


def engines_folder(cache: Path) -> Path:
    """Of the service's cache directory."""
    return cache / "engines"


def binary_of(folder: Path) -> Path:
    """The llama-server in an installed engine's folder, or in a build's: CMake has the same layout."""
    return folder / "bin" / "llama-server"


def installed_engines(cache: Path) -> list[InstalledEngine]:
    """All that are complete, the newest version first, then by name. Others' folders are left out."""
    folder = engines_folder(cache)
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    found = [engine for name in names if (engine := _read(folder / name))]
    return sorted(found, key=lambda engine: (-engine.build_number, engine.name))


def description_of(binary: Path) -> InstalledEngine | None:
    """The installed engine whose llama-server this is; None for any other."""
    folder = binary.parent.parent
    return _read(folder) if binary_of(folder) == binary else None


def chosen_engine(cache: Path) -> str:
    """The name that `engine use` chose, whether it is still installed or not; "" for auto. Of something else in the
    place of its file, the path, which is the name of no engine: to read a pipe would block."""
    file = engines_folder(cache) / IN_USE
    if not file.is_file():
        return str(file) if os.path.lexists(file) else ""
    try:
        return file.read_text().strip()
    except (OSError, ValueError):
        return ""


def described(engine: InstalledEngine) -> dict[str, Any]:
    """What its engine.json says; its name and its binary are those of its folder."""
    return {
        "version": engine.version,
        "backend": engine.backend,
        "architectures": list(engine.architectures),
        "instruction_set": engine.instruction_set,
        "source": engine.source,
        "size_bytes": engine.size_bytes,
    }


def _read(folder: Path) -> InstalledEngine | None:
    binary, description = binary_of(folder), folder / DESCRIPTION
    if folder.name.startswith(".") or not os.access(binary, os.X_OK) or not description.is_file():
        return None
    try:
        said = json.loads(description.read_text())
        return InstalledEngine(
            name=folder.name,
            version=str(said["version"]),
            backend=Backend(said["backend"]),
            architectures=tuple(map(str, said["architectures"])),
            instruction_set=InstructionSet(said["instruction_set"]),
            source=str(said["source"]),
            size_bytes=int(said["size_bytes"]),
            binary=str(binary.absolute()),
        )
    except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return None
