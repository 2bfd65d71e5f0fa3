"""The names of the models in one repository: by quantization where it is unique, and by file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from app.entities.gguf_names import file_stem, name_suffixes, parse_part_name, quantization
from app.entities.model_name import folded

MAX_SUFFIXES = 16  # of one name: a repository of 20,000 files may have a hundred in each
DEFAULT_QUANTIZATION = "Q4_K_M"  # as llama-server's -hf


def model_stem(path: str) -> str:
    """The name of the file without folder, part number and ".gguf"."""
    name = path.rpartition("/")[2]
    part = parse_part_name(name)
    return part[0] if part else file_stem(name)


def order_in_repository(path: str) -> tuple[str, int, str]:
    """Sort key: of two files with one name, the one that is less deep has it."""
    return path.rpartition("/")[2], path.count("/"), path


def names_to_list(repo: str, paths: Sequence[str]) -> list[tuple[str, ...]]:
    """For each model the names under which it may be listed, best first. `paths`: of the first parts, in the
    repository."""
    kinds = [quantization(model_stem(path)) for path in paths]
    count = Counter(kinds)
    found: list[tuple[str, ...]] = []
    for path, kind in zip(paths, kinds, strict=True):
        by_file = (f"{repo}:{model_stem(path)}", f"{repo}:{file_stem(path)}")
        found.append((f"{repo}:{kind}", *by_file) if kind and count[kind] == 1 else by_file)
    return found


def models_by_folded_name(repo: str, paths: Sequence[str]) -> dict[str, int]:
    """Folded names -> indices of models. The more specific kind of name takes precedence, then the first model."""
    keys: dict[str, int] = {}
    for index, path in enumerate(paths):
        stem = model_stem(path)
        keys.setdefault(folded(f"{repo}:{quantization(stem) or stem}"), index)
    for index, path in enumerate(paths):
        for file in (model_stem(path), file_stem(path), path, path.rpartition("/")[2]):
            keys.setdefault(folded(f"{repo}:{file}"), index)
    for index, path in enumerate(paths):
        for variant in name_suffixes(model_stem(path))[-MAX_SUFFIXES:]:
            keys.setdefault(folded(f"{repo}:{variant}"), index)
    if paths:
        keys.setdefault(folded(repo), keys.get(folded(f"{repo}:{DEFAULT_QUANTIZATION}"), 0))
    return keys
