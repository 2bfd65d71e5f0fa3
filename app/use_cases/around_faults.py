"""Starts that llama.cpp is known to abort, and how they are made instead."""

from __future__ import annotations

from dataclasses import replace

from app.entities.launch import LaunchSettings
from app.use_cases.context_memory import is_quantized


def around_faults(launch: LaunchSettings, architecture: str) -> LaunchSettings:
    """The settings to start a model of this architecture with: as they are, unless llama.cpp would abort.

    phi3 with a quantized cache and slots that have their own cells: its graph has more nodes than there is room for
    ("fatal error" in ggml-impl.h while the context is made; b11434). The same slots may share the cells.
    """
    has_blocks = is_quantized(launch.cache_type_k) or is_quantized(launch.cache_type_v)
    if architecture == "phi3" and has_blocks and launch.parallel > 1:
        return replace(launch, kv_unified=True)
    return launch
