"""Saved KV caches: which files are restored, and which are deleted for a new one.

All metadata is in the file names, so that nothing else has to be kept consistent with the disk.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from app.entities.launch import EngineFacts
from app.entities.model import Model
from app.use_cases.launch.command_line import ANY_PORT, launch_plan

READABLE_CHARACTERS = 40  # of a model's name in its folder's
_TELLING_VARIABLES = ("LLAMA_ARG_", "GGML_")
_NAME = re.compile(r"([0-9a-f]{16})-([0-9]{1,16})-([0-9a-f]{8})-([0-9]{1,4})\.kv", re.ASCII)


@dataclass(frozen=True, slots=True)
class SavedSlot:
    """The saved KV cache of one slot."""

    start: str  # start_digest its start
    at_ms: int  # Unix time
    server: str  # eight hexadecimal digits of its own, so that two servers of one model do not meet
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

    `stamps` are the files' as they are now: what the catalogue says may be from before a change. Where the layers lie
    does not count: llama.cpp's file is the same, and it refuses one that differs after all. The size of the context
    does: some models (longrope) rotate otherwise in a longer one.
    """
    options = replace(model.launch.options, n_gpu_layers=0, n_cpu_moe=0, tensor_split=())
    anywhere = replace(model.launch, options=options, gpus=())
    argv = launch_plan(replace(model, name="", launch=anywhere), engine, {}, api_key="", port=ANY_PORT).argv
    every = {**env, **model.launch.env}
    variables = sorted(item for item in every.items() if item[0].upper().startswith(_TELLING_VARIABLES))
    parts = (argv, variables, model.path, tuple(stamps), engine.identity)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def match_slots(saved: Iterable[SavedSlot], slots: int) -> list[tuple[SavedSlot, int]]:
    """The newest caches, each with its slot: the one it was saved from, or a free one if two servers saved the same."""
    newest = sorted(saved, key=lambda each: (-each.at_ms, each.server, each.slot))[:slots]
    free = set(range(slots))
    placed = []
    for each in newest:
        slot = each.slot if each.slot in free else min(free - {other.slot for other in newest} or free)
        free.remove(slot)
        placed.append((each, slot))
    return placed


def files_to_delete(
    saved: Iterable[SavedSlot], needed_bytes: int, left_bytes: int, free_bytes: int
) -> tuple[SavedSlot, ...] | None:
    """The files to delete for a new one, oldest first. None: deleting all of them would not free enough space.

    `left_bytes` are left of the quota, `free_bytes` on the disk; both may be below zero.
    """
    room, gone = min(left_bytes, free_bytes), []
    for each in sorted(saved, key=lambda each: (each.at_ms, each.server, each.slot)):
        if room >= needed_bytes:
            break
        gone.append(each)
        room += each.size_bytes
    return tuple(gone) if room >= needed_bytes else None
