"""Which source package an engine is built from: xllamacpp's, which contains llama.cpp.

The pinned one is that of the release that the estimates were fitted to, so that engine and estimates agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

PACKAGE = "xllamacpp"
PINNED_VERSION = "2026.10.11549"
PINNED_SHA256 = "c17ee1163006f70726abb9f72137830818f3d8cb60bfc34cb232d08428eaa22b"  # of its source package on PyPI
PINNED_FILENAME = f"{PACKAGE}-{PINNED_VERSION}.tar.gz"
_SUFFIX = ".tar.gz"
_NAMED_VERSIONS = 3


class NoSourcePackage(Exception):
    """No package can be taken. The message is one line: why, and what to do."""


@dataclass(frozen=True, slots=True)
class SourcePackage:
    """A source package that an index offers."""

    filename: str  # "xllamacpp-2026.10.11549.tar.gz"
    url: str
    sha256: str
    size_bytes: int = 0  # 0: not known
    is_yanked: bool = False

    @property
    def version(self) -> str:
        return self.filename.removesuffix(_SUFFIX).rpartition("-")[2]


def is_source_package(filename: str) -> bool:
    """Whether a file of the index may be one: its name is used as a file's name here."""
    stem = filename.removeprefix(f"{PACKAGE}-").removesuffix(_SUFFIX)
    return filename == f"{PACKAGE}-{stem}{_SUFFIX}" and stem.replace(".", "").isalnum() and not stem.startswith(".")


def chosen_package(offered: Sequence[SourcePackage], wanted: str = PINNED_VERSION) -> SourcePackage:
    """The package of this version, with the checksum that it must have. Raises NoSourcePackage.

    `wanted`: a version of xllamacpp ("2026.10.11549"), or llama.cpp's build number ("11549", "b11549").
    """
    number = wanted.removeprefix("b")
    found = [each for each in offered if number and number in (each.version, _build_number(each.version))]
    if not found:
        near = _near(number, [each.version for each in offered if not each.is_yanked])
        known = f"; the nearest are {', '.join(near)}" if near else ""
        raise NoSourcePackage(f"the index has no source package of {PACKAGE} {wanted}{known}")
    package = min(found, key=lambda each: each.is_yanked)
    return _with_known_checksum(package)


def _with_known_checksum(package: SourcePackage) -> SourcePackage:
    if package.version == PINNED_VERSION:
        return replace(package, sha256=PINNED_SHA256)
    if package.sha256:
        return package
    raise NoSourcePackage(
        f"the index tells no SHA-256 of {package.filename}: download it yourself, and use --sdist FILE"
    )


def _near(number: str, versions: Sequence[str]) -> list[str]:
    """The versions with the nearest build numbers; the newest ones, if what was asked for has none."""
    build = number.rpartition(".")[2]
    newest = sorted(versions, key=_numbers, reverse=True)
    if build.isdecimal():
        numbered = [each for each in newest if _build_number(each).isdecimal()]
        newest = sorted(numbered, key=lambda each: abs(int(_build_number(each)) - int(build)))
    return newest[:_NAMED_VERSIONS]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else -1 for part in version.split("."))


def _build_number(version: str) -> str:
    """llama.cpp's; "" of the early versions, which do not say it."""
    year, _, rest = version.partition(".")
    return rest.rpartition(".")[2] if len(year) == 4 else ""
