"""cmake and ninja: the system's, or those that PyPI has, in an environment of their own in the cache directory."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from workers.engine.installed_engines import engines_folder
from workers.engine_builds.build import has_compiler
from workers.engine_builds.logged_command import run_logged
from workers.engine_builds.stopping import CannotContinue, Deadline

_REQUIREMENTS = ("cmake>=3.28,<5", "ninja>=1.11,<2")
_LOG = "install.log"


def build_tools(cache: Path, deadline: Deadline) -> tuple[str, ...]:
    """Folders to search before those of PATH, none if that has all. Raises CannotContinue, OutOfTime."""
    if not has_compiler():
        raise CannotContinue(
            "no C++ compiler: install one (Debian, Ubuntu: sudo apt install g++; Fedora: sudo dnf install gcc-c++), "
            "then run the same command again"
        )
    if shutil.which("cmake") and (shutil.which("ninja") or shutil.which("make")):
        return ()
    folder = engines_folder(cache) / ".tools"
    if not (folder / "complete").is_file():
        _install(folder, deadline)
        (folder / "complete").touch()
    return (str(folder / "bin"),)


def _install(folder: Path, deadline: Deadline) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    log, environment = folder / _LOG, dict(os.environ)
    failed = "cmake is not on PATH (Debian, Ubuntu: sudo apt install cmake ninja-build), and PyPI's is not to be had"
    run_logged([sys.executable, "-P", "-m", "venv", str(folder)], environment, log, deadline, failed)
    pip = [
        str(folder / "bin" / "python"),
        "-P",
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--no-cache-dir",
    ]
    run_logged([*pip, "--only-binary=:all:", *_REQUIREMENTS], environment, log, deadline, failed)
