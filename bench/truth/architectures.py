"""The architectures that an engine knows, from its source."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from workers.engine_builds.stopping import CannotContinue

_FILE = "src/llama-arch.cpp"
_TABLE = re.compile(r"LLM_ARCH_NAMES = \{(.*?)^\};", re.DOTALL | re.MULTILINE)
_NAME = re.compile(r'\{\s*LLM_ARCH_\w+,\s*"([\w.-]+)"')  # not "(unknown)"
_NO_MODELS = {"clip"}  # "dummy, only used by llama-quantize"


def architectures_in(source: Path) -> tuple[str, ...]:
    """`source`: llama.cpp's folder. Raises CannotContinue."""
    table = _TABLE.search((source / _FILE).read_text())
    if not table:
        raise CannotContinue(f"{_FILE} of this llama.cpp has no LLM_ARCH_NAMES: its list of architectures has moved")
    return tuple(name for name in _NAME.findall(table[1]) if name not in _NO_MODELS)


def list_changes(before: Iterable[str], now: Iterable[str]) -> Iterator[str]:
    """A line for what is new, and one for what is gone."""
    known, said = set(before), set(now)
    if new := sorted(said - known):
        yield f"new architectures: {', '.join(new)}"
    if gone := sorted(known - said):
        yield f"architectures that are gone: {', '.join(gone)}"
