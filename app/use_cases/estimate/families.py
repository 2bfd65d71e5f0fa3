"""Families: how well an architecture's estimates agreed with llama.cpp's own figures, by kind of start.

The figures are in margin_table.py, written by `python -m bench.margins` from all measured rows. An architecture that
was never measured under a kind of start has low confidence there.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from app.entities.launch import ModelOptions, Task
from app.use_cases.estimate.kv_cache import is_plain
from app.use_cases.estimate.margin_table import TABLE


class StartKind(enum.StrEnum):
    """What a start has in common with others whose estimates are off for the same reasons."""

    ONE_GPU = "one"
    ONE_QUANTIZED = "one-q"  # one GPU, with a KV cache that flash attention has to convert
    SEVERAL_GPUS = "several"
    PARTIAL = "partial"  # layers in RAM
    IN_RAM = "ram"  # experts or other tensors in RAM
    CACHE_IN_RAM = "nkvo"
    QUANTIZED = "q"  # in any other place
    NO_FLASH_ATTENTION = "nofa"
    EMBEDDING = "emb"
    CPU = "cpu"


NAMES: Mapping[StartKind, str] = {
    StartKind.ONE_GPU: "on one GPU",
    StartKind.ONE_QUANTIZED: "with a quantized KV cache",
    StartKind.SEVERAL_GPUS: "on several GPUs",
    StartKind.PARTIAL: "with layers in RAM",
    StartKind.IN_RAM: "with tensors in RAM",
    StartKind.CACHE_IN_RAM: "with the KV cache in RAM",
    StartKind.QUANTIZED: "with a quantized KV cache on several GPUs or with parts in RAM",
    StartKind.NO_FLASH_ATTENTION: "without flash attention",
    StartKind.EMBEDDING: "for embeddings",
    StartKind.CPU: "on the CPU",
}


@dataclass(frozen=True, slots=True)
class MeasuredSettings:
    """What the rows of a kind were measured with: the compute buffer's rules depend on it."""

    ubatches: int = 0  # different sizes
    smallest_ubatch: int = 0
    largest_ubatch: int = 0
    most_slots: int = 0

    def include(self, ubatch_tokens: int, slots: int) -> bool:
        return self.smallest_ubatch <= ubatch_tokens <= self.largest_ubatch and slots <= self.most_slots


@dataclass(frozen=True, slots=True)
class Agreement:
    """The result of comparing a family's estimates with the rows of a kind."""

    rows: int  # one per device
    error: float  # of the worst row, as a share of the total
    total_share: float  # to be booked on top: of the total ...
    compute_share: float  # ... and of the compute buffer
    settings: MeasuredSettings = MeasuredSettings()

    @property
    def is_exact(self) -> bool:
        """Whether enough rows agreed to expect the same of other starts with settings between theirs."""
        return self.rows >= EXACT_ROWS and self.settings.ubatches >= EXACT_UBATCHES and self.error <= EXACT_ERROR


# Booked at least: alignment, and the gaps that copies from RAM fit into, differ from model to model.
USUAL_SHARES: Mapping[StartKind, float] = {
    StartKind.SEVERAL_GPUS: 0.01,
    StartKind.PARTIAL: 0.02,
    StartKind.QUANTIZED: 0.01,
    StartKind.CACHE_IN_RAM: 0.01,
    StartKind.CPU: 0.005,  # of most architectures one start was measured; nine of ten were within 0.4 %
}
ANY_FAMILY, WITH_COMPANIONS = "*", "+"  # lines of the table that are not of an architecture
UNKNOWN_MARGIN = 0.10  # of the total, of an architecture that has not been measured under a kind
# With these, of 823 drawn rows of one GPU 114 were exact, and the worst of them was off by 0.07 %.
EXACT_ERROR, EXACT_ROWS, EXACT_UBATCHES = 0.0002, 8, 3
EXACT_KINDS = frozenset({StartKind.ONE_GPU, StartKind.ONE_QUANTIZED})

# Types of K and V. CUDA's flash attention has no kernel for some of the others.
MEASURED_CACHES = frozenset({("f16", "f16"), ("q8_0", "q8_0"), ("q4_0", "q4_0")})


def kinds(options: ModelOptions, n_layer_all: int) -> tuple[StartKind, ...]:
    """The kinds that a start belongs to, the most specific last."""
    if not options.devices:
        return (StartKind.CPU,)
    if options.task is not Task.COMPLETION:
        return (StartKind.EMBEDDING,)
    place = _place(options, n_layer_all)
    quantized = not is_plain(options)
    if quantized and options.flash_attn != "off":
        return (StartKind.ONE_QUANTIZED,) if place is StartKind.ONE_GPU else (place, StartKind.QUANTIZED)
    return (place, StartKind.NO_FLASH_ATTENTION) if options.flash_attn == "off" else (place,)


def _place(options: ModelOptions, n_layer_all: int) -> StartKind:
    if options.overrides or options.n_cpu_moe:
        return StartKind.IN_RAM
    if not options.kv_offload:
        return StartKind.CACHE_IN_RAM
    if options.n_gpu_layers <= n_layer_all:
        return StartKind.PARTIAL
    return StartKind.SEVERAL_GPUS if options.devices > 1 and options.split_mode != "none" else StartKind.ONE_GPU


def architectures() -> set[str]:
    """Those with measured rows."""
    return _MEASURED.keys() - {ANY_FAMILY, WITH_COMPANIONS}


def is_known(architecture: str) -> bool:
    return architecture in _MEASURED


def unmeasured(architecture: str, of: Iterable[StartKind]) -> list[StartKind]:
    """Those of the kinds under which no row of the architecture was measured."""
    return [kind for kind in of if kind not in _MEASURED.get(architecture, {})]


def is_exact(architecture: str, of: tuple[StartKind, ...], ubatch_tokens: int, slots: int) -> bool:
    """Whether every measured row of these kinds agreed, and the settings are between theirs."""
    if len(of) != 1 or of[0] not in EXACT_KINDS:
        return False
    found = _MEASURED.get(architecture, {}).get(of[0])
    return bool(found and found.is_exact and found.settings.include(ubatch_tokens, slots))


def agreement(architecture: str, of: tuple[StartKind, ...], has_companions: bool = False) -> Agreement | None:
    """Of the measured rows of the most specific kind; None without any."""
    if not of:
        return None
    return _MEASURED.get(WITH_COMPANIONS if has_companions else architecture, {}).get(of[-1])


def margin_shares(architecture: str, of: Iterable[StartKind], has_companions: bool = False) -> tuple[float, float]:
    """What to book on top: shares of the total and of the compute buffer."""
    each = [(0.0, 0.0), *(_shares(architecture, kind) for kind in of)]
    if has_companions:
        each += [(found.total_share, found.compute_share) for found in _MEASURED[WITH_COMPANIONS].values()]
    return max(total for total, _ in each), max(compute for _, compute in each)


def _shares(architecture: str, kind: StartKind) -> tuple[float, float]:
    if found := _MEASURED.get(architecture, {}).get(kind):
        return max(found.total_share, USUAL_SHARES.get(kind, 0.0)), found.compute_share
    usual = _MEASURED[ANY_FAMILY].get(kind)
    return UNKNOWN_MARGIN, usual.compute_share if usual else 0.0


def _parsed(line: str) -> tuple[str, dict[StartKind, Agreement]]:
    family, *cells = line.split()
    return family, dict(map(_cell, cells))


def _cell(text: str) -> tuple[StartKind, Agreement]:
    kind, rows, error, total, compute, *settings = text.split(":")
    worst, of_total, of_compute = (float(each) / 100 for each in (error, total, compute))
    return StartKind(kind), Agreement(int(rows), worst, of_total, of_compute, MeasuredSettings(*map(int, settings)))


_MEASURED: Mapping[str, Mapping[StartKind, Agreement]] = dict(map(_parsed, TABLE.split("\n")))
