"""What the pure rings may know of settings and of the engine: the values that shape one llama-server's start."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class EngineKind(enum.StrEnum):
    BINARY = "binary"  # a llama-server executable
    EMBEDDED = "embedded"  # llama.cpp's HTTP server from the xllamacpp wheel, in a Python process of its own


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """Which llama-server runs here and what it said it can do."""

    kind: EngineKind
    command: tuple[str, ...]  # the argv every start begins with
    version: str  # what the engine calls itself; for people
    identity: str  # changes whenever the engine does: hash of the file, or package version
    flags: frozenset[str]  # every option its --help names, as "--port" and "-m"
    switches: frozenset[str] = frozenset()  # those of them that take no value: --flash-attn once was one


@dataclass(frozen=True, slots=True)
class LaunchSettings:
    """What shapes one start beside the model's file, named as llama-server's own options."""

    ctx_size: int = 4096  # tokens, all slots together (-c)
    parallel: int = 4  # slots (-np)
    kv_unified: bool = True
    ubatch_size: int = 512
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    flash_attn: str = "auto"  # on | off | auto
    n_gpu_layers: int = 0  # 0 on a machine without GPUs
    mmproj: str | None = None  # path of the projector that lets the model see or hear
    args: tuple[str, ...] = ()  # more options, as they are
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # more variables; may hold secrets
