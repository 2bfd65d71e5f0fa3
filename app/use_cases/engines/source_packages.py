"""Which source package an engine is built from: xllamacpp's, which contains llama.cpp.

The pinned one is that of the release that the estimates were fitted to, so that engine and estimates agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.use_cases.engines.build_numbers import PACKAGE, build_number_of, wanted_build_number

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

    @property
    def build_number(self) -> str:
        """llama.cpp's; "" if the version does not say it."""
        return build_number_of(PACKAGE, self.version)


def is_source_package(filename: str) -> bool:
    """Whether a file of the index may be one: its name is used as a file's name here."""
    stem = filename.removeprefix(f"{PACKAGE}-").removesuffix(_SUFFIX)
    return filename == f"{PACKAGE}-{stem}{_SUFFIX}" and stem.replace(".", "").isalnum() and not stem.startswith(".")


def chosen_package(offered: Sequence[SourcePackage], wanted: str = PINNED_VERSION) -> SourcePackage:
    """The package of this version, with the checksum that it must have. Raises NoSourcePackage.

    `wanted`: a version of xllamacpp ("2026.10.11549"), or llama.cpp's build number ("11549", "b11549").
    """
    number = wanted.removeprefix("b")
    found = [each for each in offered if number and number in (each.version, each.build_number)]
    if not found:
        near = _near(number, [each for each in offered if not each.is_yanked])
        known = f"; the nearest are {', '.join(near)}" if near else ""
        raise NoSourcePackage(f"the index has no source package of {PACKAGE} {wanted}{known}")
    return _with_known_checksum(max(found, key=lambda each: (not each.is_yanked, _numbers(each.version))))


def _with_known_checksum(package: SourcePackage) -> SourcePackage:
    if package.version == PINNED_VERSION:
        return replace(package, sha256=PINNED_SHA256)
    if package.sha256:
        return package
    raise NoSourcePackage(
        f"the index tells no SHA-256 of {package.filename}: download it yourself, and use --sdist FILE"
    )


def _near(wanted: str, offered: Sequence[SourcePackage]) -> list[str]:
    """The versions with the nearest build numbers; the newest ones, if what was asked for has none."""
    nearest = sorted(offered, key=lambda each: _numbers(each.version), reverse=True)
    if build := wanted_build_number(wanted):
        numbered = [each for each in nearest if each.build_number]
        nearest = sorted(numbered, key=lambda each: abs(int(each.build_number) - int(build)))
    return [each.version for each in nearest[:_NAMED_VERSIONS]]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else -1 for part in version.split("."))
