"""Writes what workers/engine/installed_engines.py reads: engines are installed, chosen and removed.

An engine appears whole or not at all, and one that runs keeps its files until it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from app.entities.engines import Backend, InstalledEngine
from workers.engine.installed_engines import (
    DESCRIPTION,
    IN_USE,
    binary_of,
    chosen_engine,
    described,
    engines_folder,
    installed_engines,
)
from workers.engine_builds.build import LOG
from workers.engine_builds.stopping import CannotContinue


def builds_folder(cache: Path) -> Path:
    """Sources and unfinished builds; empty but for its lock once all builds are installed."""
    return engines_folder(cache) / ".build"


@contextlib.contextmanager
def build_lock(cache: Path) -> Iterator[None]:
    """One build at a time, for as long as the process lives. Raises CannotContinue."""
    folder = builds_folder(cache)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotContinue("another `engine install` is running: wait for it") from None
        yield


def publish_engine(cache: Path, engine: InstalledEngine, build: Path) -> InstalledEngine:
    """Install what was built in `build`, in place of an engine of the same name."""
    folder = engines_folder(cache) / engine.name
    fresh, old = (folder.with_name(f".{engine.name}.{suffix}") for suffix in ("new", "old"))
    _delete(fresh, old)
    binary_of(fresh).parent.mkdir(parents=True)
    shutil.copy2(binary_of(build), binary_of(fresh))
    shutil.copy2(build / LOG, fresh / LOG)
    engine = replace(engine, size_bytes=binary_of(fresh).stat().st_size, binary=str(binary_of(folder)))
    (fresh / DESCRIPTION).write_text(json.dumps(described(engine), indent=2) + "\n")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(old)
    fresh.rename(folder)
    _delete(old)
    return engine


def choose_engine(cache: Path, name: str) -> None:
    """`name` is used from now on; "" for auto. It is installed: the caller has checked."""
    file = engines_folder(cache) / IN_USE
    if not name:
        file.unlink(missing_ok=True)
        return
    fresh = file.with_name(f".{IN_USE}.new")
    fresh.write_text(f"{name}\n")
    fresh.rename(file)


def remove_engine(cache: Path, name: str) -> None:
    """Delete an installed engine, and that it was chosen; with the last one for CUDA, NVIDIA's packages."""
    if chosen_engine(cache) == name:
        choose_engine(cache, "")
    folder = engines_folder(cache) / name
    old = folder.with_name(f".{name}.old")
    _delete(old)
    is_cuda = _is_for_cuda(find_installed(cache, name))
    folder.rename(old)
    _delete(old)
    if is_cuda and not any(map(_is_for_cuda, installed_engines(cache))):
        with contextlib.suppress(CannotContinue), build_lock(cache):  # a build that runs may use it
            _delete(*engines_folder(cache).glob(".cuda-*"))


def _is_for_cuda(engine: InstalledEngine | None) -> bool:
    return engine is not None and engine.backend is Backend.CUDA


def find_installed(cache: Path, name: str) -> InstalledEngine | None:
    return next((engine for engine in installed_engines(cache) if engine.name == name), None)


def _delete(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
