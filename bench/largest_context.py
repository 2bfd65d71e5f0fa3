"""Compares `estimate --fit-in` with the largest context that fits by llama.cpp's own figures.

    python -m bench.largest_context

Thirteen models on one GPU and one on two, with the same bytes for CUDA's overhead on both sides. The tool is that of
bench/truth. Writes bench/results/largest-context-<date>.json. Exits with an error if a context that is offered does not
fit, or if one that is more than a step of 256 tokens longer fits and no margin is booked.
"""

from __future__ import annotations

import datetime
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.entities.launch import ModelOptions
from app.use_cases.estimate.companions import NO_COMPANIONS
from app.use_cases.estimate.estimate import GPU_OVERHEAD_BYTES, estimate_memory
from app.use_cases.estimate.largest_context import STEP, largest_contexts
from app.use_cases.model_shape.shape import ModelShape, model_shape
from bench.record import record
from bench.truth.measure import Bench
from bench.truth.table import MIB, Start
from bench.truth.tool import WORK, built_tool
from bench.vram_truth import header

RESULTS = Path(__file__).with_name("results")
CASES = (  # model, quantization, GiB of each GPU, type of the KV cache
    ("llama-3.1-8b", "Q4_K_M", (8,), "f16"),
    ("qwen3-8b", "Q4_K_M", (8,), "q8_0"),
    ("gemma-3-12b", "Q4_K_M", (10,), "f16"),
    ("gemma-2-9b", "Q4_K_M", (7,), "f16"),
    ("qwen3-30b-a3b", "Q4_K_M", (20,), "f16"),
    ("gpt-oss-20b", "MXFP4_MOE", (13,), "f16"),
    ("mistral-small-24b", "Q4_K_M", (16,), "f16"),
    ("phi-4", "Q4_K_M", (10,), "f16"),
    ("qwen2.5-7b", "Q4_K_M", (5,), "f16"),
    ("granite-4.0-micro", "Q4_K_M", (4,), "f16"),
    ("deepseek-v2-lite", "Q4_K_M", (11,), "f16"),
    ("llama-3.2-1b", "Q4_K_M", (2,), "f16"),
    ("falcon-h1-7b", "Q4_K_M", (6,), "f16"),
    ("llama-3.1-70b", "Q4_K_M", (24, 24), "f16"),
)


def main() -> int:
    bench = Bench(built_tool().absolute(), (WORK / "models").absolute())
    found = [_compared(bench, *case) for case in CASES]
    for each in found:
        print(f"{each['model']:20} {each['gib']!s:9} offered {each['offered']:8,}  llama.cpp {each['largest']:8,}")
    date = datetime.datetime.now(datetime.UTC).date()
    record(RESULTS / f"largest-context-{date}.json", {"models": found, "step": STEP})
    return int(any(_is_wrong(each) for each in found))


def _is_wrong(found: dict[str, Any]) -> bool:
    return found["offered"] > found["largest"] or (found["steps_short"] > 1 and not found["has_margin"])


def _compared(bench: Bench, model: str, quant: str, gib: tuple[int, ...], cache: str) -> dict[str, Any]:
    shape = model_shape(header(model, quant))
    options = ModelOptions(devices=len(gib), cache_type_k=cache, cache_type_v=cache, flash_attn="on")
    sizes = tuple(1024 * MIB * size for size in gib)
    offered = next((fit.ctx_size for fit in largest_contexts(shape, options, NO_COMPANIONS, sizes)), 0)

    def fits(ctx_size: int) -> bool:
        return _fits(bench, model, quant, gib, cache, ctx_size)

    largest = _largest(shape, offered, fits)
    estimate = estimate_memory(shape, replace(options, ctx_size=offered))
    return {
        "model": model,
        "quant": quant,
        "gib": gib,
        "cache": cache,
        "has_margin": any(device.margin_bytes for device in estimate.devices),
        "offered": offered,
        "largest": largest,
        "steps_short": -(-(largest - offered) // STEP),
    }


def _largest(shape: ModelShape, offered: int, fits: Any) -> int:
    """The largest that fits, up to the model's own context: from what is offered outwards, then between."""
    trained = shape.hparams.integer("context_length")
    low, high, width = offered, offered + STEP, STEP
    if offered and not fits(offered):
        low, high = 0, offered
    while low == offered and high <= trained and fits(high):
        offered = low = high
        width *= 2
        high += width
    high = min(high, trained + STEP)
    while high - low > STEP:
        middle = low + (high - low) // STEP // 2 * STEP
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _fits(bench: Bench, model: str, quant: str, gib: tuple[int, ...], cache: str, ctx_size: int) -> bool:
    devices = f"{len(gib)}:{','.join(str(1024 * size) for size in gib)}"
    args = f"-c {ctx_size} -np 4 -kvu -ctk {cache} -ctv {cache} -fa on -fit off"
    if len(gib) > 1:
        args += f" -ts {','.join('1' * len(gib))}"
    figures = bench.figures(Start("", model, quant, devices, args))
    if figures.error:
        raise SystemExit(f"{model}: {figures.error}")
    needs = [sum(figures.devices[f"CUDA{number}"]) * MIB + GPU_OVERHEAD_BYTES for number in range(len(gib))]
    return all(need <= 1024 * MIB * size for need, size in zip(needs, gib, strict=True))


if __name__ == "__main__":
    sys.exit(main())
