"""cmake and ninja: the system's, or those that PyPI has, in an environment of their own in the cache directory."""

from __future__ import annotations

import shutil
from pathlib import Path

from workers.engine.installed_engines import engines_folder
from workers.engine_builds.build import has_compiler
from workers.engine_builds.python_environment import install_packages
from workers.engine_builds.stopping import CannotContinue, Deadline

_REQUIREMENTS = ("cmake>=3.28,<5", "ninja>=1.11,<2")
_FAILED = "cmake is not on PATH (Debian, Ubuntu: sudo apt install cmake ninja-build), and PyPI's could not be installed"


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
    install_packages(folder, _REQUIREMENTS, deadline, _FAILED)
    return (str(folder / "bin"),)
