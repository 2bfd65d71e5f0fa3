"""The models of GET /plan as a table, and one model of GET /v1/models/ID in full."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from app.terminal.table import Table, TableRow, table
from app.terminal.text import UNKNOWN, printable, size_cell, tokens_cell

SOURCES = {"hugging_face": "the Hugging Face cache", "lm_studio": "LM Studio", "ollama": "Ollama"}
OUTCOME_STYLES = {"loaded": "green", "evict": "yellow", "wait": "yellow", "refuse": "red"}

EXPENDABLE = ("QUANT", "CAN", "CONTEXT", "SIZE")  # columns, the first one first


def model_table(models: Iterable[Mapping[str, Any]]) -> Table:
    return table("MODEL QUANT SIZE CAN CONTEXT NOW", map(_row, models), numbers="SIZE", styled="NOW")


def _row(model: Mapping[str, Any]) -> TableRow:
    cells = (
        printable(model["id"]),
        printable(model["quant"] or UNKNOWN),
        size_cell(model["size_bytes"]),
        " ".join(map(printable, abilities(model["capabilities"]))) or UNKNOWN,
        tokens_cell(model["ctx_size"]),
        now_text(model),
    )
    return TableRow(cells, "red" if model["problem"] else OUTCOME_STYLES.get(model["outcome"], ""))


def now_text(model: Mapping[str, Any]) -> str:
    """Of an entry of GET /plan: where it is, or would go, or why it cannot be served."""
    problem = ": ".join(model["problem"].splitlines()[:2])  # and the first line of the engine's log
    text = problem or model["text"] or model["state"]
    return printable(text) + (", pinned" if model["pinned"] else "")


def abilities(capabilities: Iterable[str]) -> list[str]:
    """Without `completion` where there is `chat`, which tells more."""
    found = list(capabilities)
    return [each for each in found if each != "completion"] if "chat" in found else found


def model_lines(entry: Mapping[str, Any], now: str) -> Iterator[str]:
    """`entry`: of GET /v1/models/ID. `now`: `now_text` of the model, "" if unknown."""
    yield printable(entry["id"])
    facts = [(name, text) for name, text in _facts(entry, now) if text and text != UNKNOWN]
    width = max(len(name) for name, _ in facts)
    yield from (f"  {name:<{width}}  {text}" for name, text in facts)


def _facts(entry: Mapping[str, Any], now: str) -> Iterator[tuple[str, str]]:
    meta, status, estimate = entry.get("meta") or {}, entry.get("status") or {}, entry.get("estimate")
    yield "now", now or printable(status.get("value", ""))
    problem = status.get("message", "").splitlines()
    if not now.startswith(printable(": ".join(problem))):
        yield from zip(["problem", *[""] * len(problem)], map(printable, problem), strict=False)
    yield "aliases", ", ".join(map(printable, entry.get("aliases", ())))
    yield "stands for", ", ".join(map(printable, entry.get("any_of", ())))
    yield "variant of", printable(entry.get("parent", ""))
    yield "at peer", printable(entry.get("peer", ""))
    yield "found in", SOURCES.get(entry.get("source", ""), "")
    yield "can", " ".join(map(printable, abilities(entry.get("capabilities", ()))))
    yield "quantization", printable(str(meta.get("ftype") or ""))
    yield "size", size_cell(entry.get("size"))
    yield "parameters", parameters_text(meta.get("n_params"))
    yield "architecture", printable(str(meta.get("architecture") or ""))
    yield "context", _context_text(entry.get("context_length"), meta.get("n_ctx_train"))
    yield "device", printable((entry.get("placement") or {}).get("device", ""))
    yield "engine", _engine_text(entry.get("engine"))
    if estimate:
        yield from memory_facts(estimate, (entry.get("placement") or {}).get("device", ""))
    yield "command line", " ".join(map(printable, status.get("args") or ()))


def _engine_text(engine: Mapping[str, Any] | None) -> str:
    """Of a model that has one of its own."""
    if engine is None:
        return ""
    return printable(f"{engine['engine']}, {engine['problem'] or engine['version']}")


def _context_text(context: int | None, trained: int | None) -> str:
    text = tokens_cell(context)
    return f"{text} for one request, trained on {tokens_cell(trained)}" if trained and trained != context else text


def parameters_text(number: int | None) -> str:
    """`14.8 B`, `783 k`."""
    if not number:
        return UNKNOWN
    for unit, factor in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= factor:
            return f"{number / factor:.{0 if number >= 100 * factor else 1}f} {unit}"
    return str(number)


def memory_facts(estimate: Mapping[str, Any], device: str) -> Iterator[tuple[str, str]]:
    """What it was placed by: a line for each GPU of `device`, such as `cuda:0,1`, and one for RAM."""
    kind, _, numbers = printable(device).partition(":")
    for number, memory in zip(numbers.split(","), estimate["devices"], strict=False):
        yield f"estimate, {kind}:{number}", _items(memory)
    yield "estimate, RAM", _items(estimate["host"])


def _items(memory: Mapping[str, int]) -> str:
    named = ((name.removesuffix("_bytes"), size) for name, size in memory.items() if name != "total_bytes" and size)
    return ", ".join(f"{name} {size_cell(size)}" for name, size in named)
