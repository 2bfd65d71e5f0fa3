"""Whether a GGUF file is a model that llama-server can serve, as far as its header shows."""

from __future__ import annotations

import math
from collections.abc import Iterable

from app.entities.gguf import FileKind, GgufHeader
from app.use_cases.model_shape.file_kind import file_kind

MAX_HEADER_LAYERS = 4096  # llama.cpp b11434 accepts 512 and fails an assertion above

ENCODER_TENSORS = ("v.", "a.", "mm.")  # of projectors; no language model of llama.cpp has such names

COMPANIONS = {  # what to say of a file that is used with a model, to follow its name
    FileKind.PROJECTOR: "is a multimodal projector, not a model: set it as the `mmproj` of its model",
    FileKind.DRAFT_HEAD: "is a draft head, not a model: it only predicts tokens for the model it was made for",
    FileKind.ADAPTER: "is an adapter, not a model",
    FileKind.IMPORTANCE_MATRIX: "is an importance matrix, not a model",
    FileKind.CONTROL_VECTOR: "is a control vector, not a model",
}


def why_not_servable(header: GgufHeader) -> str:
    """What is wrong with the file, to follow its name in a message; "" if nothing is.

    Checks what llama.cpp requires of every model (b11434, src/llama.cpp, src/llama-model.cpp). Whether an architecture
    is supported is left to the engine.
    """
    return _type_problem(header) or _nan_problem(header) or _layers_problem(header) or _encoder_problem(header)


def _type_problem(header: GgufHeader) -> str:
    kind, declared = file_kind(header), header.metadata.get("general.type", "model")
    if kind != FileKind.MODEL:
        return COMPANIONS[kind]
    if declared != "model":
        return f"is not a model: its general.type is {str(declared)[:80]!r}"
    if not header.architecture:
        return "has no architecture (general.architecture)"
    return ""


def _encoder_problem(header: GgufHeader) -> str:
    """Ollama's own engine has models with their vision or audio encoder in one file. llama.cpp rejects tensors that the
    language model does not have (b11549, src/llama-model-loader.cpp:done_getting_tensors), without saying which."""
    if any(tensor.name.startswith(ENCODER_TENSORS) for tensor in header.tensors):
        return (
            "also contains an encoder for images or audio, which only Ollama's own engine reads from there: llama.cpp "
            "needs it in a file of its own (mmproj). Pull the model from Hugging Face"
        )
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
        return f"is not a language model: it has no layer count ({key})"
    if type(layers) is not int or not 1 <= layers <= MAX_HEADER_LAYERS:  # bool is an int to isinstance
        shown = f"{len(layers)} values" if isinstance(layers, tuple) else repr(layers)[:80]
        return f"is damaged: its layer count ({key}) is {shown}"
    return ""
