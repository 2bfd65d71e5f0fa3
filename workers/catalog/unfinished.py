"""Files that another program is still writing, told by the files that download programs leave until they are done.

Their length does not tell: aria2 and browsers allocate all of it at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable

_BESIDE = (".aria2",)
_LM_STUDIO = "downloading_"  # lmstudio-bug-tracker#1477: downloading_NAME.part is renamed to NAME
# Of Firefox and others, qBittorrent, uTorrent, Chromium, huggingface_hub, llama.cpp (common/download.cpp), Safari.
_IN_ITS_PLACE = (".part", ".!qB", ".!ut", ".crdownload", ".incomplete", ".downloadInProgress", ".download")


def marker_of(path: str, exists: Callable[[str], bool] = os.path.lexists) -> str:
    """The file that says that the one at `path` is not complete; "" if there is none."""
    folder, name = os.path.split(path)
    markers = [path + suffix for suffix in (*_BESIDE, *_IN_ITS_PLACE)]
    markers.append(os.path.join(folder, f"{_LM_STUDIO}{name}.part"))
    return next(filter(exists, markers), "")


def finished_path(path: str) -> str:
    """The path that an unfinished GGUF file will have: "x.gguf" for "x.gguf.part"; "" for other files."""
    stem, suffix = os.path.splitext(path)
    if suffix not in _IN_ITS_PLACE or not stem.lower().endswith(".gguf"):
        return ""
    folder, name = os.path.split(stem)
    return os.path.join(folder, name.removeprefix(_LM_STUDIO)) if suffix == ".part" else stem


def unfinished_problem(path: str, marker: str) -> str:
    """Why the file at `path` cannot be served yet, and until when."""
    name, found = os.path.basename(path), os.path.basename(marker)
    return (
        f"{name} is still being written ({found} exists). It can be served when the download is complete; if it was "
        "aborted, resume it or delete its files"
    )


def current_problem(path: str) -> str:
    """The same for the file as it is now; "" if nothing writes it."""
    marker = marker_of(path)
    return unfinished_problem(path, marker) if marker else ""
