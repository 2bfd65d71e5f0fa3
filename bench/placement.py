"""Duration of a placement decision in milliseconds: python -m bench.placement [--json FILE]

16 GPUs with 64 servers. First with cached headers: the models of bench/data/vram in turn, on machines that are roomy,
crowded and full. Then, on crowded ones, a model with a vocabulary as large as Gemma 3's whose header is read first,
with its file not in the page cache.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from app.entities.launch import ModelOptions
from app.entities.placement import CPU, Card, PlacementConstraints, Resident
from app.use_cases.estimate.estimate import estimate_memory
from app.use_cases.model_shape.shape import ModelShape, model_shape
from app.use_cases.placement.placement import decide
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.placement.world import World
from bench.estimate import shape_of
from bench.headers import forget, write_model
from bench.record import record
from workers.gguf.header import read_header

GIB = 1024**3
CARDS, SERVERS = 16, 64
MODELS = ("llama-3.1-8b", "qwen2.5-32b", "llama-3.1-70b", "qwen3-30b-a3b", "gemma-3-27b", "deepseek-v3")
ROOM = {"roomy": (10, 80), "crowded": (2, 20), "full": (0, 3)}  # GiB free on each of 80


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300, help="decisions in each kind of world (default: 300)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    chance, figures = random.Random(7), dict[str, dict[str, object]]()
    every: list[float] = []
    for kind, room in ROOM.items():
        times, outcomes = [], defaultdict(int)
        for run in range(options.runs):
            request, world = _request(shape_of(MODELS[run % len(MODELS)], "Q4_K_M")), _world(chance, *room)
            begin = time.perf_counter()
            decision = decide(request, world)
            times.append(1000 * (time.perf_counter() - begin))
            outcomes[str(decision.outcome)] += 1
        every += times
        figures[kind] = _figures(times) | {"outcomes": dict(outcomes)}
        print(kind, figures[kind])
    figures["all of them"] = _figures(every)
    print("all of them", figures["all of them"])
    figures["cold"] = _figures(_cold(chance, options.runs // 10))
    print("cold", figures["cold"])
    if options.json:
        record(options.json, figures, cards=CARDS, servers=SERVERS, loop_ms=_loop_ms())


def _loop_ms() -> float:
    """Milliseconds of five million iterations of a minimal Python loop: this machine's current speed."""
    begin, total = time.perf_counter(), 0
    for number in range(5_000_000):
        total += number
    return round(1000 * (time.perf_counter() - begin), 1)


def _cold(chance: random.Random, runs: int) -> list[float]:
    """Milliseconds per decision, including reading the header."""
    times = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        write_model(path)
        for _ in range(runs):
            world = _world(chance, *ROOM["crowded"])
            forget(str(path))
            begin = time.perf_counter()
            decide(_request(model_shape(read_header(str(path)))), world)
            times.append(1000 * (time.perf_counter() - begin))
    return times


def _figures(times: list[float]) -> dict[str, object]:
    times.sort()
    return {
        "median_ms": round(statistics.median(times), 3),
        "p99_ms": round(times[int(0.99 * len(times))], 3),
        "max_ms": round(times[-1], 3),
    }


def _request(shape: ModelShape) -> PlacementRequest:
    options = ModelOptions(ctx_size=8192)
    return PlacementRequest(
        shape, options, lambda changed, _: estimate_memory(shape, changed), PlacementConstraints(has_auto_context=True)
    )


def _world(chance: random.Random, least: float, most: float) -> World:
    cards = [Card(f"GPU-{n}", "card", n, 80 * GIB, int(chance.uniform(least, most) * GIB)) for n in range(CARDS)]
    servers = [
        Resident(n, f"m{n}", {chance.choice(cards).uuid: 4 * GIB}, chance.random() < 0.3, chance.uniform(0, 900))
        for n in range(SERVERS)
    ]
    return World(tuple(cards), tuple(servers), {CPU: 256 * GIB})


if __name__ == "__main__":
    main()
