"""The metadata of models' headers, for clients that ask for them: the last few are kept, by their files' stamps."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from app.entities.gguf import Value
from workers.catalog.model_headers import Stamp, stamp_of
from workers.gguf.header import read_header

KEPT = 32  # models; each has some ten kilobytes


def header_metadata(path: str) -> Mapping[str, Value]:
    """Without arrays of more than a few thousand values. Raises InvalidModelFile."""
    return _read(path, stamp_of(path))


@lru_cache(maxsize=KEPT)
def _read(path: str, stamp: Stamp | None) -> Mapping[str, Value]:
    return read_header(path).metadata
