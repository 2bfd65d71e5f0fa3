"""Whether a GGUF file is a model that llama-server can serve, as far as its header says."""

from __future__ import annotations

import math
from collections.abc import Iterable

from app.entities.gguf import GgufHeader

MOST_LAYERS = 4096  # llama.cpp b11434 takes 512, and falls over an assertion beyond

_OTHER_TYPES = {
    "adapter": "is an adapter, not a model",
    "imatrix": "is an importance matrix, not a model",
}


def why_not_servable(header: GgufHeader) -> str:
    """What is wrong with it, to be read after the file's name; empty for nothing.

    What llama.cpp itself asks of every model (b11434, llama.cpp, llama-model.cpp). Whether it knows the architecture
    is for the engine to say.
    """
    return _type_problem(header) or _nan_problem(header) or _layers_problem(header)


def _type_problem(header: GgufHeader) -> str:
    architecture, kind = header.architecture, header.metadata.get("general.type", "model")
    if architecture == "clip":
        return "is a projector, which lets another model see or hear: name it as that model's `mmproj`"
    if kind != "model":
        return _OTHER_TYPES.get(str(kind), f"is no model: its general.type is {str(kind)[:80]!r}")
    if not architecture:
        return "does not say its architecture (general.architecture)"
    return ""


def _nan_problem(header: GgufHeader) -> str:
    for key, value in header.metadata.items():
        if _has_nan(value if isinstance(value, tuple) else (value,)):
            return f"is damaged: {key[:80]} is not a number (NaN)"
    return ""


def _has_nan(values: Iterable[object]) -> bool:
    return any(isinstance(value, float) and math.isnan(value) for value in values)


def _layers_problem(header: GgufHeader) -> str:
    key = f"{header.architecture[:80]}.block_count"
    layers = header.metadata.get(key)
    if layers is None:
        return f"is no language model: it does not say how many layers it has ({key})"
    if type(layers) is not int or not 1 <= layers <= MOST_LAYERS:  # True is no number of layers
        said = f"{len(layers)} values" if isinstance(layers, tuple) else repr(layers)[:80]
        return f"is damaged: it has {said} for its number of layers ({key})"
    return ""
