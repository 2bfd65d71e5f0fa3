"""The simulated machines, the models requested on them, and their speed.

A model is a shape and a quantization of bench/data/vram with a context of 8k and four slots; its memory is what the
service estimates. Times follow from bytes: a load reads the weights at LOAD_BYTES_PER_SECOND, generation reads them
once per token, and prompts are processed at a rate inversely proportional to them. Rough, but equal for all policies.

Models that load at the same time share the disk; on the machines called "own disks" each has one of its own.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass, replace

from app.entities.launch import ModelOptions
from app.entities.memory import Estimate
from app.entities.placement import Card, Outcome
from app.use_cases.estimate.estimate import estimate_memory
from app.use_cases.placement.placement import decide
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.placement.world import World
from bench.estimate import shape_of
from bench.vram_truth import pairs_with_headers

GIB = 1024**3
RESERVE_BYTES = 512 * 1024**2  # per card, the default of gpu.reserve
SLOTS = 4
MODELS = 30
CONTEXT_TOKENS = 8192

START_SECONDS = 1.0  # process, CUDA and vocabulary
LOAD_BYTES_PER_SECOND = 3e9  # from an otherwise idle disk, over PCIe
STOP_SECONDS = 0.3  # from the signal to the exit
RETURN_SECONDS = 0.7  # from the exit until the driver reports the memory as free
DECODE_BYTES_PER_SECOND = 500e9  # each token reads all weights
PROMPT_RATE_BYTES = 1.4e13  # prompt tokens per second x bytes of weights

# Shapes of bench/data/vram that people run on such machines, without the smallest ones, which never compete for memory.
SHAPES = (
    *(
        "llama-3.2-1b",
        "llama-3.1-8b",
        "llama-3.1-70b",
        "mistral-small-24b",
        "mixtral-8x7b",
        "qwen2.5-7b",
        "qwen2.5-32b",
    ),
    *("qwen3-8b", "qwen3-30b-a3b", "gemma-2-9b", "gemma-3-12b", "gemma-3-27b", "gemma-3n-e4b", "gpt-oss-20b", "phi-4"),
    *("deepseek-v2-lite", "phi-3-mini", "falcon-h1-7b", "granite-4-h-small", "qwen3-next-80b-a3b"),
    *("codestral-mamba-7b", "llama-4-scout", "glm-4.5-air"),
)


@dataclass(frozen=True)
class Machine:
    name: str
    cards: tuple[int, ...]  # total bytes of each
    shares_disk: bool = True

    @functools.cached_property
    def usable(self) -> dict[str, int]:
        return {f"GPU-{number}": size - RESERVE_BYTES for number, size in enumerate(self.cards)}

    @property
    def bytes(self) -> int:
        return sum(self.usable.values())

    @functools.cached_property
    def models(self) -> tuple[Subject, ...]:
        """MODELS of the models that fit the machine, the same in all runs."""
        fitting = [each for each in subjects() if self._holds(each)]
        return tuple(random.Random(8).sample(fitting, MODELS))

    def _holds(self, subject: Subject) -> bool:
        cards = [Card(uuid, "card", n, size, size) for n, (uuid, size) in enumerate(self.usable.items())]
        return decide(subject.request, World(tuple(cards))).outcome is Outcome.PLACE


MACHINES = (
    Machine("1x24", (24 * GIB,)),
    Machine("2x24", (24 * GIB,) * 2),
    Machine("4x24+1x80", (*(24 * GIB,) * 4, 80 * GIB)),
)
OWN_DISKS = tuple(replace(each, name=f"{each.name} own disks", shares_disk=False) for each in MACHINES)


@dataclass(frozen=True, eq=False)
class Subject:
    """A model that requests ask for."""

    name: str
    request: PlacementRequest
    weights_bytes: int
    gpu_bytes: int  # on one card
    ram_bytes: int

    @property
    def read_seconds(self) -> float:
        """With the disk to itself."""
        return self.weights_bytes / LOAD_BYTES_PER_SECOND

    @property
    def load_seconds(self) -> float:
        return START_SECONDS + self.read_seconds

    def service_seconds(self, context_tokens: int, generated_tokens: int) -> float:
        prompt = context_tokens * self.weights_bytes / PROMPT_RATE_BYTES
        return prompt + generated_tokens * self.weights_bytes / DECODE_BYTES_PER_SECOND

    def split_bytes(self, cards: int) -> int:
        """Total bytes when split evenly over this many cards, as the service estimates it."""
        options = replace(self.request.options, devices=cards, tensor_split=(1.0,) * cards)
        split = self.request.estimate(options, ("card",) * cards)
        return sum(device.booked_bytes for device in split.devices)


@functools.cache
def subjects() -> tuple[Subject, ...]:
    return tuple(_subject(shape, quant) for shape, quant in pairs_with_headers() if shape in SHAPES)


def _subject(shape: str, quant: str) -> Subject:
    known = shape_of(shape, quant)

    @functools.cache
    def estimate(options: ModelOptions, gpus: tuple[str, ...]) -> Estimate:
        return estimate_memory(known, options)

    options = ModelOptions(ctx_size=CONTEXT_TOKENS)
    one = estimate(options, ("card",))
    (device,) = one.devices
    request = PlacementRequest(known, options, estimate)
    return Subject(f"{shape} {quant}", request, device.weights_bytes, device.booked_bytes, one.host.booked_bytes)
