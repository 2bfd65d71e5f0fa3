"""Measures one start of one model: our estimate, llama-server's report, and the memory that the machine reports."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.entities.launch import EngineFacts, Task
from app.entities.memory import DeviceMemory, Estimate
from app.entities.model import Model
from app.use_cases.estimate.estimate import GPU_OVERHEAD_BYTES, estimate_memory
from app.use_cases.model_shape.shape import ModelShape, model_shape
from bench.gpu.card import Card
from bench.gpu.grid import Start, prompt_tokens
from bench.gpu.llama_server import MeasuredServer, StartFailed
from bench.gpu.ram import resident_bytes
from bench.gpu.results import Row
from bench.gpu.shapes import Shape
from workers.engine_builds.stopping import Deadline
from workers.gguf.header import read_header

RELEASE_TIMEOUT_SECONDS = 10.0  # how long releasing memory may take
RELEASE_TOLERANCE_BYTES = 64 * 1024**2  # may remain used: other processes use the card too
ANSWER_TOKENS = 8
FIRST_TOKEN = 100  # of a prompt: lower ids may be control tokens


@dataclass(frozen=True, slots=True)
class Bench:
    """What all rows share. `card` is None in the rehearsal."""

    engine: EngineFacts
    card: Card | None
    logs: Path
    overhead_bytes: int = GPU_OVERHEAD_BYTES  # what the estimator assumes for this GPU model


def estimated(shape: ModelShape, start: Start, on_gpu: bool, overhead_bytes: int) -> Estimate:
    """The service's estimate for this start."""
    return estimate_memory(shape, start.launch(on_gpu).options, overhead_bytes)


def key(shape: Shape, start: Start) -> str:
    """The key of a row."""
    return f"{shape.label}: {start.label}"


def measured(bench: Bench, shape: Shape, path: Path, start: Start, deadline: Deadline) -> Row:
    """The row of this start; it has `error` if the start failed. Raises OutOfTime."""
    found = model_shape(read_header(str(path)))
    estimate = estimated(found, start, bench.card is not None, bench.overhead_bytes)
    row: Row = {
        "key": key(shape, start),
        "model": shape.label,
        "architecture": shape.header.architecture,
        "start": start.label,
        "confidence": str(estimate.confidence),
        "estimated": _where(bench, estimate),
        "estimated_in_ram": _items(estimate.host),
    }
    before = bench.card.shown(0).card if bench.card else 0
    model = _model(path, start, bench)
    log_file = bench.logs / f"{path.stem} {start.label}.log"
    try:
        with MeasuredServer(model, bench.engine, bench.card.uuid if bench.card else None, log_file, deadline) as server:
            row |= _seen(bench, server, shape, start, before)
    except StartFailed as error:
        return row | {"error": str(error).replace(str(path), path.name)[:1000]}  # no paths of this machine in results
    if bench.card:
        row["back_seconds"] = _seconds_until_released(bench.card, before)
    return row


def _seen(bench: Bench, server: MeasuredServer, shape: Shape, start: Start, before: int) -> Row:
    row: Row = {"load_seconds": round(server.load_seconds, 2)}
    loaded, projected = server.report.loaded(), server.report.projected
    if loaded is None:
        raise StartFailed("its log does not list its buffers")
    if bench.card and not loaded.need.devices:
        raise StartFailed("it loaded nothing on the GPU")
    row["projected"] = _where(bench, projected) if projected else None
    row["loaded"] = _where(bench, loaded.need)
    row["loaded_in_ram"] = _items(loaded.need.host)
    show = _shows(bench, server.pid, before)
    row["shown_loaded"] = show()
    began = time.monotonic()
    row["prompt_tokens"] = _prompt(server, shape, start)
    row["prompt_seconds"] = round(time.monotonic() - began, 2)
    row["shown_prompted"] = show()
    row["resident"] = resident_bytes(server.pid)
    return row


def _shows(bench: Bench, pid: int, before: int) -> Callable[[], dict[str, Any]]:
    """Returns a function that reads the process's memory, in RAM or on the card. If NVML does not list the process, the
    growth of the card's used memory is taken, which is right as long as no other process allocates or frees memory."""

    def of_card(card: Card) -> dict[str, Any]:
        shown = card.shown(pid)
        by = "process" if shown.process is not None else "card"
        return {"by": by, "bytes": shown.process or shown.card - before, "card_grew_bytes": shown.card - before}

    def of_ram() -> dict[str, Any]:
        resident = resident_bytes(pid)
        return {"by": "resident", "bytes": sum(resident.values()), **resident}

    card = bench.card
    return of_ram if card is None else lambda: of_card(card)


def _prompt(server: MeasuredServer, shape: Shape, start: Start) -> int:
    """Send a prompt that fills most of a slot, as token ids, so that no tokenizer is involved; returns its length."""
    words = shape.vocabulary - 2 * FIRST_TOKEN
    tokens = [FIRST_TOKEN + n * 7919 % words for n in range(prompt_tokens(start, shape.data_bytes))]
    if start.task is Task.COMPLETION:
        body = {"prompt": tokens, "n_predict": ANSWER_TOKENS, "ignore_eos": True, "cache_prompt": False}
        answer = server.ask("/completion", body)
        if not answer.get("tokens_predicted"):
            raise StartFailed(f"the answer has no token: {str(answer)[:300]}")
        return int(answer.get("tokens_evaluated", 0))
    answers = server.ask("/embedding", {"content": tokens})
    if not answers or not answers[0].get("embedding"):
        raise StartFailed(f"the answer has no embedding: {str(answers)[:300]}")
    return len(tokens)


def _model(path: Path, start: Start, bench: Bench) -> Model:
    status = path.stat()
    return Model("measured", str(path), status.st_size, int(status.st_mtime), start.launch(bench.card is not None))


def _seconds_until_released(card: Card, before: int) -> float | None:
    """Seconds until the card's memory was released; None if it was not in time."""
    began = time.monotonic()
    while (passed := time.monotonic() - began) < RELEASE_TIMEOUT_SECONDS:
        if card.shown(0).card <= before + RELEASE_TOLERANCE_BYTES:
            return round(passed, 2)
        time.sleep(0.05)
    return None


def _where(bench: Bench, estimate: Estimate) -> dict[str, int]:
    """The measured part: that on the GPU, or in RAM in the rehearsal."""
    return _items(estimate.devices[0] if bench.card and estimate.devices else estimate.host)


def _items(memory: DeviceMemory) -> dict[str, int]:
    return {
        "weights": memory.weights_bytes,
        "context": memory.context_bytes,
        "compute": memory.compute_bytes,
        "overhead": memory.overhead_bytes,
        "margin": memory.margin_bytes,
    }
