"""Saved KV caches: which files are restored, and which are deleted for a new one.

All metadata is in the file names, so that nothing else has to be kept consistent with the disk.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from app.entities.launch import EngineFacts, LoadMode
from app.entities.model import Model
from app.use_cases.launch.command_line import ANY_PORT, launch_plan, without_prompt_cache

READABLE_CHARACTERS = 40  # of a model's name in its folder's
_RELEVANT_VARIABLES = ("LLAMA_ARG_", "GGML_")
_NAME = re.compile(r"([0-9a-f]{16})-([0-9]{1,16})-([0-9a-f]{8})-([0-9]{1,4})\.kv", re.ASCII)


@dataclass(frozen=True, slots=True)
class SavedSlot:
    """The saved KV cache of one slot."""

    start: str  # the start_digest of the server
    at_ms: int  # Unix time
    server: str  # eight random hexadecimal digits: file names of two servers of one model must differ
    slot: int
    size_bytes: int = 0
    folder: str = ""  # of its model

    @property
    def name(self) -> str:
        return f"{self.start}-{self.at_ms}-{self.server}-{self.slot}.kv"


def saved_slot(name: str, size_bytes: int, folder: str) -> SavedSlot | None:
    """The slot that a file name describes; None for other and incomplete files."""
    found = _NAME.fullmatch(name)
    return SavedSlot(found[1], int(found[2]), found[3], int(found[4]), size_bytes, folder) if found else None


def folder_name(model: str) -> str:
    """The folder name of a model: safe for any model name, and unique."""
    readable = re.sub(r"[^A-Za-z0-9_-]", "_", model[:READABLE_CHARACTERS])
    return f"{readable}-{hashlib.sha256(model.encode()).hexdigest()[:16]}"


def start_digest(model: Model, engine: EngineFacts, env: Mapping[str, str], stamps: Iterable[object]) -> str:
    """A digest of everything a saved cache depends on: files, engine, command line and environment variables.

    `stamps` are the files' current ones: those of the catalogue may be outdated. The placement of layers is excluded:
    llama.cpp's file does not depend on it, and llama.cpp rejects a file that does not match. The context size is
    included: some models (longrope) rotate differently in a longer context.
    """
    options = replace(model.launch.options, n_gpu_layers=0, n_cpu_moe=0, tensor_split=(), load_mode=LoadMode.AUTO)
    anywhere = without_prompt_cache(replace(model.launch, options=options, gpus=()))
    argv = launch_plan(replace(model, name="", launch=anywhere), engine, {}, api_key="", port=ANY_PORT).argv
    merged = {**env, **model.launch.env}
    variables = sorted(item for item in merged.items() if item[0].upper().startswith(_RELEVANT_VARIABLES))
    parts = (argv, variables, model.path, tuple(stamps), engine.identity)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def match_slots(saved: Iterable[SavedSlot], slots: int) -> list[tuple[SavedSlot, int]]:
    """The newest caches, each with its slot: the one it was saved from, or a free one if two servers saved the same."""
    newest = sorted(saved, key=lambda cache: (-cache.at_ms, cache.server, cache.slot))[:slots]
    saved_from = {cache.slot for cache in newest}
    free = set(range(slots))
    matched = []
    for cache in newest:
        slot = cache.slot if cache.slot in free else min(free - saved_from or free)
        free.remove(slot)
        matched.append((cache, slot))
    return matched


def files_to_delete(
    saved: Iterable[SavedSlot], needed_bytes: int, left_bytes: int, free_bytes: int
) -> tuple[SavedSlot, ...] | None:
    """The files to delete for a new one, oldest first. None: deleting all of them would not free enough space.

    `left_bytes` are left of the quota, `free_bytes` on the disk; both may be below zero.
    """
    available_bytes, deleted = min(left_bytes, free_bytes), []
    for cache in sorted(saved, key=lambda cache: (cache.at_ms, cache.server, cache.slot)):
        if available_bytes >= needed_bytes:
            break
        deleted.append(cache)
        available_bytes += cache.size_bytes
    return tuple(deleted) if available_bytes >= needed_bytes else None
