"""The values that determine how one llama-server is started: its engine, its options, its launch settings."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace


class EngineKind(enum.StrEnum):
    BINARY = "binary"  # a llama-server executable
    EMBEDDED = "embedded"  # llama.cpp's HTTP server from the xllamacpp wheel, in a Python process of its own


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """The llama-server in use and the options it supports."""

    kind: EngineKind
    command: tuple[str, ...]  # the argv every start begins with
    version: str  # what the engine calls itself; for people
    identity: str  # of the build: a hash of its files, or of those of its package
    flags: frozenset[str]  # every option its --help names, as "--port" and "-m", and as "--spec-type ngram-mod"
    switches: frozenset[str] = frozenset()  # those of them that take no value: --flash-attn once was one
    files: tuple[str, ...] = ()  # what it runs from, as far as known; a change there may be another build
    architectures: tuple[str, ...] = ()  # compute capabilities of an installed one's CUDA code: "8.9"; else not known


@dataclass(frozen=True, slots=True)
class OwnEngine:
    """An engine that a model has instead of the service's."""

    binary: str  # auto, embedded, the name of an installed one, or a path
    library_path: str = ""  # the LD_LIBRARY_PATH of the model's `env`

    def __str__(self) -> str:
        return self.binary

    def shown(self, shows_paths: bool) -> str | None:
        """Its name in a report; None: a path of this machine, which the reader may not see."""
        return self.binary if shows_paths or "/" not in self.binary else None


@dataclass(frozen=True, slots=True)
class EngineUse:
    """Whose own engine it is."""

    models: tuple[str, ...] = ()
    gpu_models: tuple[str, ...] = ()  # those of them that may use GPUs


@dataclass(frozen=True, slots=True)
class EngineState:
    """An engine as it is now."""

    facts: EngineFacts | None = None  # the last that worked; None: there never was one
    problem: str = ""  # why there is none, or why the one that replaced it does not work, and what to do
    use: EngineUse = EngineUse()


ALL_LAYERS = 999  # the customary number; llama-server takes any above the number of layers
AUTO_CTX_TOKENS = 4096  # `ctx_size: auto`, before a placement chooses a longer context
LONGEST_AUTO_CTX_TOKENS = 131072
# Of a model that embeds or reranks, whose buffers grow with it: OpenAI's embeddings take 8,191 tokens at most.
LONGEST_AUTO_INPUT_TOKENS = 8192
AUTO_UBATCH = 0
AUTO_PROMPT_CACHE = -1  # a share of the RAM that is free at the start
CELLS_PADDING = 256  # llama.cpp rounds a context up to a multiple of it


PLAIN_DRAFT = "draft-simple"  # the --spec-type with a smaller model that drafts
DRAFTS_ITSELF = "draft-mtp"  # the --spec-type of a model that has layers of its own to predict several tokens


class LoadMode(enum.StrEnum):
    """How llama-server reads the weights of a model."""

    AUTO = "auto"  # before a start: chosen for it; at a start: the engine's own way
    MMAP = "mmap"  # the file is mapped: weights in RAM are pages of it, which the kernel can drop
    READ = "read"  # into buffers, through the page cache
    DIRECT = "direct"  # into buffers, past the page cache


class Task(enum.StrEnum):
    """The kind of requests a llama-server is started for."""

    COMPLETION = "completion"
    EMBEDDING = "embedding"  # --embeddings
    RERANK = "rerank"  # --reranking


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """The options of one llama-server that decide how much memory it takes and where, with llama-server's defaults.

    One value carries them all the way: the settings fill it in, a placement replaces what it decided, the estimate
    and the command line read it. A field that is also a key of the settings has the key's name.
    """

    ctx_size: int = 0  # tokens of all slots together (-c); 0: the model's training context
    parallel: int = 4  # slots (-np)
    kv_unified: bool = True
    batch_size: int = 2048
    ubatch_size: int = 512  # AUTO_UBATCH: a slot's context of a server that embeds or reranks, else 512
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    flash_attn: str = "auto"  # on | off | auto
    swa_full: bool = False  # sliding-window layers cache the whole context
    task: Task = Task.COMPLETION
    kv_offload: bool = True  # False: the KV cache stays in RAM (-nkvo)
    n_cpu_moe: int = 0  # the experts of the first N layers stay in RAM; ALL_LAYERS: --cpu-moe
    overrides: tuple[tuple[str, str], ...] = ()  # -ot: (pattern of tensor names, buffer type)
    n_gpu_layers: int = ALL_LAYERS
    devices: int = 1  # GPUs the server sees; 0: none
    tensor_split: tuple[float, ...] = ()  # shares of the layers; empty: by the devices' free memory
    split_mode: str = "layer"  # layer | none | row | tensor
    main_gpu: int = 0  # the only GPU used with split_mode "none"
    repack: bool = True  # without GPUs, weights of some types are copied into another order
    mmproj_offload: bool = True  # False: the projector stays in RAM
    image_max_tokens: int = 0  # largest image the projector is prepared for; 0: as it was trained
    speculation: str = "none"  # --spec-type: none | draft-simple | draft-mtp | ngram-mod ...
    draft_max: int = 3  # tokens drafted at a time (--spec-draft-n-max)
    draft_cache_type_k: str = "f16"  # of a draft model, which does not follow the main model's
    draft_cache_type_v: str = "f16"
    draft_n_gpu_layers: int = ALL_LAYERS
    draft_n_cpu_moe: int = 0
    draft_overrides: tuple[tuple[str, str], ...] = ()
    unmeasured: tuple[str, ...] = ()  # options whose effect on memory is not known
    load_mode: LoadMode = LoadMode.AUTO
    draft_device: int | None = None  # the only GPU of the draft model (-devd); None: split as the main model
    prompt_cache: int = 0  # bytes of RAM for conversations without a slot (--cache-ram); or AUTO_PROMPT_CACHE
    parks_idle_slots: bool = False  # idle slots are emptied into that cache when another request begins

    @property
    def slot_tokens(self) -> int:
        """The context of one slot; 0 if it is the model's training context."""
        tokens = self.ctx_size // (1 if self.kv_unified else max(1, self.parallel))
        return -(-tokens // CELLS_PADDING) * CELLS_PADDING

    @property
    def ubatch_tokens(self) -> int:
        """The ubatch_size that a server is started with: it embeds and reranks only what fits into one ubatch."""
        if self.ubatch_size != AUTO_UBATCH:
            return self.ubatch_size
        return (self.slot_tokens if self.task is not Task.COMPLETION else 0) or 512

    @property
    def batch_tokens(self) -> int:
        """The batch_size that a server is started with."""
        is_chosen = self.ubatch_size != AUTO_UBATCH or self.task is Task.COMPLETION
        return self.batch_size if is_chosen else max(self.batch_size, self.ubatch_tokens)

    @property
    def without_gpus(self) -> ModelOptions:
        """For a server that has none: everything is in RAM, whatever the other options say."""
        in_ram = replace(self, devices=0, n_gpu_layers=0, n_cpu_moe=0, tensor_split=())
        return replace(in_ram, overrides=(), kv_offload=True, mmproj_offload=True)


@dataclass(frozen=True, slots=True)
class LaunchSettings:
    """How one llama-server is started, apart from the model's file."""

    options: ModelOptions = ModelOptions(ctx_size=AUTO_CTX_TOKENS)
    gpus: tuple[str, ...] = ()  # UUIDs of the GPUs it may see, in its order; empty until it is placed, and on the CPU
    vulkan_numbers: tuple[int, ...] = ()  # of the same GPUs, if the engine uses them through Vulkan
    mmproj: str | None = None  # path of the projector that lets the model see or hear
    args: tuple[str, ...] = ()  # further arguments, passed on unchanged
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # further variables; may hold secrets
    engine: OwnEngine | None = None  # None: the service's
