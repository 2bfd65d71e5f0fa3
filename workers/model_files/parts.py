"""The files of a model: one, or all parts of a split one."""

from __future__ import annotations

import re
from collections.abc import Iterator

_PART = re.compile(r"-00001-of-(\d{5})\.gguf$")


def parts_of(path: str) -> Iterator[str]:
    """The paths of all parts. `path`: the file llama-server opens, which is the first of them."""
    found = _PART.search(path)
    if found is None:
        yield path
        return
    for number in range(1, int(found[1]) + 1):
        yield f"{path[: found.start()]}-{number:05d}-of-{found[1]}.gguf"
