"""What a model can do, and what its header says about it, for lists and for the start of its server."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from app.entities.launch import Task


class Media(StrEnum):
    """What a projector makes embeddings of."""

    IMAGE = "image"
    AUDIO = "audio"


@dataclass(frozen=True, slots=True)
class MediaPart:
    """A part of a request that is a picture, say. `param`: its place, such as `messages[0].content[1]`."""

    media: Media
    param: str


@dataclass(frozen=True, slots=True)
class HeaderFacts:
    """What a model's header says, apart from what an estimate needs."""

    architecture: str = ""  # llama.cpp's name, such as "qwen3moe"
    parameters: int = 0
    quantization: str = ""  # such as "Q4_K_M"; "" if the file names none
    context_tokens: int = 0  # the training context; 0 if unknown
    embedding_width: int = 0
    vocabulary: int = 0  # tokens
    tensor_bytes: int = 0  # of all tensors: the weights without a projector
    task: Task = Task.COMPLETION  # what the model was made for
    pooling: str = ""  # the --pooling of an embedding model whose file names none; "" for the file's own
    has_chat_template: bool = False
    template_has_tools: bool = False
    template_has_thinking: bool = False
    has_infill_tokens: bool = False


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a server of the model can be asked for. All False: nothing, because its files are broken."""

    completion: bool = False  # generates text
    chat: bool = False  # ... and has a chat template; without one llama-server formats messages as ChatML
    tools: bool = False
    thinking: bool = False
    infill: bool = False
    vision: bool = False  # takes images
    audio: bool = False  # takes audio
    embedding: bool = False
    rerank: bool = False
