"""Builds llama-server with CMake. Builds are incremental: the same call continues one that was stopped."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from workers.engine.installed_engines import binary_of
from workers.engine_builds.logged_command import OnProgress, run_logged
from workers.engine_builds.source import Source
from workers.engine_builds.stopping import Deadline

LOG = "build.log"
_COMPILERS = ("c++", "g++", "clang++")


@dataclass(frozen=True, slots=True)
class BuildEnvironment:
    """What a build finds beside what is on PATH."""

    path: tuple[str, ...] = ()  # folders searched before those of PATH
    include: tuple[str, ...] = ()  # folders searched before those of CPATH, which all compilers search

    def variables(self) -> dict[str, str]:
        """The complete environment."""
        paths = {"PATH": self.path, "CPATH": self.include}
        joined = {name: os.pathsep.join([*folders, os.environ.get(name, "")]) for name, folders in paths.items()}
        return {**os.environ, **{name: value.removesuffix(os.pathsep) for name, value in joined.items() if paths[name]}}


def missing_build_tools() -> str:
    """Build tools that are missing on PATH, comma-separated; empty if none is."""
    missing = [name for name in ("cmake",) if not shutil.which(name)]
    missing += [] if shutil.which("ninja") or shutil.which("make") else ["ninja or make"]
    missing += [] if has_compiler() else ["a C++ compiler"]
    return ", ".join(missing)


def has_compiler() -> bool:
    """Whether CMake will find a C++ compiler."""
    return any(shutil.which(name) for name in (os.environ.get("CXX"), *_COMPILERS) if name)


def build(
    source: Source,
    folder: Path,
    options: Mapping[str, str],
    deadline: Deadline,
    environment: BuildEnvironment | None = None,
    jobs: int | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> Path:
    """Build llama-server in `folder` unless it is up to date; returns its path.

    `jobs`: compilers at a time, one per core unless given. Raises CannotContinue, OutOfTime.
    """
    if is_built(folder, options):
        return binary_of(folder)
    folder.mkdir(parents=True, exist_ok=True)
    variables = (environment or BuildEnvironment()).variables()
    log = folder / LOG
    if not _matches(folder / "configured", options):
        # Without what an earlier try has found: another generator, a compiler that is gone, other options.
        (folder / "CMakeCache.txt").unlink(missing_ok=True)
        generator = ["-G", "Ninja"] if shutil.which("ninja", path=variables["PATH"]) else []
        chosen = [f"-D{name}={value}" for name, value in options.items()]
        configure = ["cmake", "-S", str(source.folder), "-B", str(folder), *generator, *chosen]
        run_logged(configure, variables, log, deadline, "cmake could not configure the build")
        (folder / "configured").write_text(json.dumps(options))
    compile_ = ["cmake", "--build", str(folder), "--target", "llama-server", "--parallel", str(jobs or _cores())]
    run_logged(compile_, variables, log, deadline, "llama-server could not be built", on_progress)
    (folder / "built").write_text(json.dumps(options))
    return binary_of(folder)


def is_built(folder: Path, options: Mapping[str, str]) -> bool:
    """Whether a complete build with these options exists."""
    return _matches(folder / "built", options) and binary_of(folder).is_file()


def _matches(stamp: Path, options: Mapping[str, str]) -> bool:
    return stamp.is_file() and stamp.read_text() == json.dumps(options)


def _cores() -> int:
    return len(os.sched_getaffinity(0))
