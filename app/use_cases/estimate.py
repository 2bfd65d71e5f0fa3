"""How much memory a model will need, worked out before it is loaded."""

from __future__ import annotations

from app.entities.model import Model


def estimate_memory(model: Model) -> int:
    """Bytes to book for a model: its file plus 15 % for context and compute buffers.

    A placeholder for arithmetic on the GGUF header: right in kind, rough in size.
    """
    return model.size_bytes * 115 // 100
