"""The installed version, and the directories in which the service keeps files."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

import platformdirs

NAME = "llama-smart-proxy"
UNIT_FILE = Path(__file__).resolve().parent.parent / "systemd" / "llama-smart-proxy.service"  # in a wheel, too


def version() -> str:
    """The installed version, or "unknown" when running from a source tree that was never installed."""
    try:
        return metadata.version(NAME)
    except metadata.PackageNotFoundError:
        return "unknown"


def state_folder() -> Path:
    """For files that must outlive the process: systemd's StateDirectory if set, else XDG_STATE_HOME's."""
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(given) if given else platformdirs.user_state_path(NAME)


def cache_folder() -> Path:
    """For files that can be created again: systemd's CacheDirectory if set, else XDG_CACHE_HOME's."""
    given = os.environ.get("CACHE_DIRECTORY", "").split(":")[0]
    return Path(given) if given else platformdirs.user_cache_path(NAME)
