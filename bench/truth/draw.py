"""Draws random starts with realistic settings, of any recorded model: starts that no rule was fitted to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from app.entities.gguf import GgufHeader
from bench.truth.table import Start
from bench.vram_truth import header, pairs_with_headers

_CONTEXTS = (2048, 4096, 8192, 16384, 32768, 65536, 131072)
_SLOTS = (1, 1, 1, 2, 3, 4, 4, 6, 8, 16)
_UBATCHES = (512, 512, 512, 512, 128, 256, 1024, 2048)
_CACHE_TYPES = (
    *((("f16", "f16"),) * 6),
    *((("q8_0", "q8_0"),) * 3),
    *(("q4_0", "q4_0"), ("q8_0", "q4_0"), ("bf16", "bf16"), ("f16", "q8_0"), ("q5_1", "q5_1")),
)
# Large enough for everything: what does not fit is another question.
_DEVICES = (
    *(("1:900000",) * 6),
    *("2:900000", "2:900000", "3:900000", "4:900000"),
    *("2:24576,12288", "2:24576,8192", "3:24576,24576,12288", "4:81920,49152,49152,32768"),
)


def drawn_starts(name: str, seed: int, count: int) -> list[Start]:
    """`count` starts. Every model comes about as often as any other."""
    random = Random(seed)
    models = [pair for pair in pairs_with_headers() if is_model(header(*pair))]
    shapes = sorted({shape for shape, _ in models})
    order = [shape for _ in range(-(-count // len(shapes))) for shape in random.sample(shapes, len(shapes))]
    return [_drawn(name, shape, [quant for each, quant in models if each == shape], random) for shape in order[:count]]


def is_model(said: GgufHeader) -> bool:
    """Whether it is started by itself: no projector, no adapter."""
    return said.architecture != "clip" and said.metadata.get("general.type") != "adapter"


def _drawn(name: str, shape: str, quants: Sequence[str], random: Random) -> Start:
    quant = random.choice(quants)
    said, devices = header(shape, quant), random.choice(_DEVICES)
    args = [*_context(said, random), *_cache(random), *_layers(said, devices, random), *_task(said, random)]
    return Start(name, shape, quant, devices, " ".join([*args, "-fit", "off"]))


def _context(said: GgufHeader, random: Random) -> Iterator[str]:
    trained = _number(said, "context_length", 4096)
    tokens = random.choice([each for each in _CONTEXTS if each <= max(trained, 2048)])
    if random.random() < 0.3:
        tokens = random.randint(1000, max(2000, min(trained, 131072)))
    yield from ("-c", str(tokens), "-np", str(random.choice(_SLOTS)), "-ub", str(random.choice(_UBATCHES)))
    if random.random() < 0.15:
        yield from ("-b", str(random.choice((512, 1024, 4096))))
    if random.random() < 0.3:
        yield "-kvu"


def _cache(random: Random) -> Iterator[str]:
    if random.random() < 0.1:
        yield from ("-ctk", "f16", "-ctv", "f16", "-fa", "off")  # a quantized V needs flash attention
        return
    k, v = random.choice(_CACHE_TYPES)
    yield from ("-ctk", k, "-ctv", v, "-fa", random.choice(("auto", "auto", "on")))
    if random.random() < 0.05:
        yield "-nkvo"
    if random.random() < 0.08:
        yield "--swa-full"


def _layers(said: GgufHeader, devices: str, random: Random) -> Iterator[str]:
    layers = _number(said, "block_count", 1)
    yield from ("-ngl", str(random.randint(0, layers) if random.random() < 0.15 else 999))
    count = int(devices.partition(":")[0])
    if count > 1 and random.random() < 0.3:
        yield from ("-ts", ",".join(str(random.choice((1, 1, 2, 3, 5))) for _ in range(count)))
    if _number(said, "expert_count", 0) and random.random() < 0.3:
        yield from random.choice((["--cpu-moe"], ["--n-cpu-moe", str(random.randint(1, layers))], ["-ot", "exps=CPU"]))


def _task(said: GgufHeader, random: Random) -> Iterator[str]:
    pools = f"{said.architecture}.pooling_type" in said.metadata
    if pools and random.random() < 0.9:
        yield "--embeddings"


def _number(said: GgufHeader, key: str, default: int) -> int:
    found = said.metadata.get(f"{said.architecture}.{key}", default)
    return found if isinstance(found, int) else default
