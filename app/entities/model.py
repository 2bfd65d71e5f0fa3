"""Model: what a client may ask for by name."""

from __future__ import annotations

from dataclasses import dataclass

from app.entities.launch import LaunchSettings


@dataclass(frozen=True, slots=True)
class Model:
    """One entry of the catalogue. A client's `model` is only ever compared with `name`."""

    name: str
    path: str  # the GGUF file llama-server opens; from the catalogue, never from a client
    size_bytes: int
    created: int  # the file's modification time, Unix seconds: /v1/models shows it
    launch: LaunchSettings
