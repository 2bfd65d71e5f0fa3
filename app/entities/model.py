"""Model: one entry of the catalogue."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from app.entities.capabilities import Capabilities, HeaderFacts, Media
from app.entities.launch import LaunchSettings
from app.entities.placement import PlacementConstraints
from app.entities.request_rules import RequestRules

LATEST = ":latest"  # the tag that Ollama's clients add to a name without one


class ModelSource(enum.StrEnum):
    """Whose folder a model's file is in. What other programs keep is only read."""

    FILE = "file"  # a models_dir, or the path of an entry
    HUGGING_FACE = "hugging_face"  # the cache of the Hugging Face libraries
    LM_STUDIO = "lm_studio"
    OLLAMA = "ollama"


PLACES = {  # to follow a number of models
    ModelSource.HUGGING_FACE: "in the Hugging Face cache",
    ModelSource.LM_STUDIO: "from LM Studio",
    ModelSource.OLLAMA: "from Ollama",
}


def counted_by_source(sources: Iterable[ModelSource], folders: int) -> str:
    """How many models were found where: `14 in 2 folders`, or `16: 14 in 2 folders, 2 from Ollama`."""
    counts = Counter(sources)
    own = str(counts[ModelSource.FILE]) + (f" in {folders} folder{'' if folders == 1 else 's'}" if folders else "")
    others = [f"{counts[source]} {place}" for source, place in PLACES.items() if counts[source]]
    if not others:
        return own
    return f"{counts.total()}: {', '.join([own, *others] if counts[ModelSource.FILE] else others)}"


@dataclass(frozen=True, slots=True)
class Replicas:
    """Number of servers of a model: at least `min` while it is loaded and memory permits, at most `max`."""

    min: int = 1
    max: int = 1


@dataclass(frozen=True, slots=True)
class Model:
    """One entry of the catalogue. A client's `model` is only ever compared with names."""

    name: str
    path: str  # the GGUF file llama-server opens (the first part of a split one); never from a client
    size_bytes: int  # of all parts, including the projector
    created: int  # the file's modification time, Unix seconds: /v1/models shows it
    launch: LaunchSettings
    aliases: tuple[str, ...] = ()  # additional names: configured, or those of the same file in other places
    problem: str = ""  # why it cannot be served, as far as its files show; "" if it can
    ttl_seconds: float | None = None  # idle time before unloading; None: as in scheduling
    constraints: PlacementConstraints = field(default_factory=PlacementConstraints)
    pin: bool = False  # never evicted or unloaded when idle
    priority: int = 0  # higher is loaded first and evicted last
    keep_kv_cache: bool = False  # save the KV cache to disk when its server stops
    replicas: Replicas = field(default_factory=Replicas)
    requests: RequestRules = field(default_factory=RequestRules)
    variants: Mapping[str, RequestRules] = field(default_factory=dict)  # further names; their rules, with `requests`
    repo: str = ""  # of its entry: "user/repo:QUANT", where its files are or would be downloaded from
    variant: str = ""  # the one whose name it was found by
    media: frozenset[Media] = frozenset()  # what its projector takes
    source: ModelSource = ModelSource.FILE
    draft_heads: tuple[str, ...] = ()  # paths of files beside it that may draft tokens for it
    # None until the header has been read. Not compared: the same model is known better later.
    facts: HeaderFacts | None = field(default=None, compare=False, repr=False)
    capabilities: Capabilities | None = field(default=None, compare=False, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The names by which it is listed, and keys may be limited."""
        return self.name, *self.aliases, *self.variants

    @property
    def rules(self) -> RequestRules:
        """For the bodies of requests by the name that it was found by."""
        return self.variants.get(self.variant, self.requests)

    def is_served_as(self, other: Model) -> bool:
        """Whether a llama-server started for this model also serves `other`: same file, unchanged, same options.

        Whatever else differs (names, rules, pin, priority, ttl, replicas) applies to a running server, too.
        """
        return (self.path, self.size_bytes, self.created, self.launch, self.keep_kv_cache) == (
            other.path,
            other.size_bytes,
            other.created,
            other.launch,
            other.keep_kv_cache,
        ) and (self.constraints == other.constraints or self._where_it_runs == other._where_it_runs)

    @property
    def _where_it_runs(self) -> PlacementConstraints:
        """Without what only decides whether the next load waits for a GPU."""
        return replace(self.constraints, cpu_when_full=False)
