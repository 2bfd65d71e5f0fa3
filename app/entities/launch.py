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


ALL_LAYERS = 999  # as people write it; llama-server itself takes any number above the layers there are


DRAFTS_ITSELF = "draft-mtp"  # the --spec-type of a model that has layers of its own to predict several tokens


class Task(enum.StrEnum):
    """What a llama-server is started to answer."""

    COMPLETION = "completion"
    EMBEDDING = "embedding"  # --embeddings
    RERANK = "rerank"  # --reranking


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Every option of llama-server that decides how much memory it takes and where, with its own defaults."""

    ctx_size: int = 0  # tokens of all slots together (-c); 0: what the model was trained with
    parallel: int = 4  # slots (-np)
    kv_unified: bool = True
    batch_size: int = 2048
    ubatch_size: int = 512
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    flash_attn: str = "auto"  # on | off | auto
    swa_full: bool = False  # sliding-window layers keep the whole context
    task: Task = Task.COMPLETION
    kv_offload: bool = True  # False: the KV cache stays in RAM (-nkvo)
    n_cpu_moe: int = 0  # the experts of so many first layers stay in RAM; ALL_LAYERS: --cpu-moe
    overrides: tuple[tuple[str, str], ...] = ()  # -ot: pattern of tensor names, and the buffer type they go to
    n_gpu_layers: int = ALL_LAYERS
    devices: int = 1  # GPUs the server sees; 0: none
    tensor_split: tuple[float, ...] = ()  # shares of the layers; empty: by the devices' free memory
    split_mode: str = "layer"  # layer | none
    main_gpu: int = 0  # where everything is with split_mode "none"
    mmproj_offload: bool = True  # False: the projector stays in RAM
    image_max_tokens: int = 0  # what the projector is made ready for; 0: what it was trained with
    speculation: str = "none"  # --spec-type: none | draft-simple | draft-mtp | ngram-mod ...
    draft_max: int = 3  # tokens guessed at a time (--spec-draft-n-max)
    draft_cache_type_k: str = "f16"  # of a draft model, which does not follow the main one's
    draft_cache_type_v: str = "f16"
    draft_n_gpu_layers: int = ALL_LAYERS
    draft_device: int | None = None  # the one GPU of the draft model (-devd); None: split as the main one


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
    n_gpu_layers: int = ALL_LAYERS
    n_cpu_moe: int = 0  # the experts of so many first layers stay in RAM
    gpus: tuple[str, ...] = ()  # UUIDs of those it may see, in its order
    tensor_split: tuple[int, ...] = ()  # shares of the layers on each of them; empty for one
    mmproj: str | None = None  # path of the projector that lets the model see or hear
    args: tuple[str, ...] = ()  # more options, as they are
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # more variables; may hold secrets
