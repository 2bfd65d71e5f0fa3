"""The engine: which one would run, and which of its libraries are missing."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from app.entities.launch import EngineFacts, EngineKind
from workers.engine.binary import SERVICE_KEY, find_engine
from workers.engine.probe_process import EngineNotFound, probe_output

LIBRARIES = ("libcuda.so.1", "libvulkan.so.1")
_NOT_FOUND = re.compile(r"^\s*(\S+) => not found", re.MULTILINE)


def look_for_engine(
    binary: str, cache: Path, env: Mapping[str, str], key: str = SERVICE_KEY
) -> tuple[EngineFacts | None, str]:
    """The engine that `binary` means, or why there is none; as for find_engine."""
    try:
        return find_engine(binary, cache=cache, env=env, key=key), ""
    except EngineNotFound as error:
        return None, str(error)


def unresolved_libraries(engine: EngineFacts, env: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """By file of the engine: the libraries that the dynamic linker does not find for it."""
    if engine.kind is not EngineKind.BINARY or not (ldd := shutil.which("ldd")):
        return {}
    return {file: lacking for file in _backends(engine) if (lacking := _lacking(ldd, file, env))}


def _backends(engine: EngineFacts) -> Iterator[str]:
    """The backends of llama.cpp in its folders, each once: libggml-cuda.so is a link to libggml-cuda.so.0.9.4."""
    folders = [file for file in engine.files if os.path.isdir(file)]
    found = {os.path.realpath(path) for folder in folders for path in Path(folder).glob("libggml-*.so*")}
    yield from sorted(found)


def _lacking(ldd: str, file: str, env: Mapping[str, str]) -> tuple[str, ...]:
    try:
        return tuple(_NOT_FOUND.findall(probe_output((ldd, file), env)))
    except EngineNotFound:
        return ()


def loadable_libraries() -> dict[str, bool]:
    """Whether each of LIBRARIES can be loaded. Loads them."""
    return {name: _loads(name) for name in LIBRARIES}


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True
