"""Packages of PyPI that a build needs, in a Python environment of their own in the cache directory."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from workers.engine_builds.logged_command import run_logged
from workers.engine_builds.stopping import Deadline

LOG = "install.log"
_MODULE = ("-P", "-m")  # -P: none of the current folder
_PIP_OPTIONS = ("--disable-pip-version-check", "--no-cache-dir", "--only-binary=:all:")
_NO_VENV = "no Python environment could be made (Debian, Ubuntu: sudo apt install python3-venv)"


def install_packages(folder: Path, requirements: Sequence[str], deadline: Deadline, failed: str) -> None:
    """Make the environment `folder` with these packages, unless it is complete. `failed`: the message if pip fails.

    Raises CannotContinue, OutOfTime.
    """
    if (folder / "complete").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    log, environment = folder / LOG, dict(os.environ)
    # Where python3-venv is missing, an environment with a python and no pip remains.
    if not (folder / "bin" / "pip").exists():
        venv = [sys.executable, *_MODULE, "venv", str(folder)]
        run_logged(venv, environment, log, deadline, f"{failed}: {_NO_VENV}")
    pip = [str(folder / "bin" / "python"), *_MODULE, "pip", "install", *_PIP_OPTIONS]
    run_logged([*pip, *requirements], environment, log, deadline, failed)
    (folder / "complete").touch()
