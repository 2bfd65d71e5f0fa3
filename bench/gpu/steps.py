"""The steps of the kit in order. Each saves its progress on disk, so that the next run can resume it."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.use_cases.estimate.estimate import GPU_OVERHEAD_BYTES
from app.use_cases.model_shape.shape import model_shape
from bench.gpu import overheads, ram
from bench.gpu.card import Card, find_card
from bench.gpu.engine import Engine
from bench.gpu.grid import Start, starts
from bench.gpu.kind import Kind
from bench.gpu.loads import load_rows
from bench.gpu.measure import Bench, estimated, key, measured
from bench.gpu.options import Options
from bench.gpu.plan import planned
from bench.gpu.results import Results, Row, folder_name
from bench.gpu.shapes import Shape
from bench.gpu.stock import Stock
from bench.gpu.table import MIB, items, summary, table
from workers.engine_builds.stopping import CannotContinue, Deadline, OutOfTime
from workers.measurement.gpu_overheads import measured_overheads


def run(options: Options) -> None:
    """Run all steps, or the selected one. Raises CannotContinue, OutOfTime."""
    kit = Kit(options, None if options.rehearse else find_card())
    say(kit.introduction)
    whole = Deadline(60 * options.minutes_in_all if options.minutes_in_all else float("inf"))
    steps: dict[str, Callable[[Deadline], None]] = {
        "build": kit.build,
        "models": kit.write_models,
        "measure": kit.measure,
        "loads": kit.loads,
        "report": kit.report,
    }
    for name, step in steps.items():
        if options.only in (None, name):
            say(f"{name}:")
            step(Deadline(60 * options.minutes).sooner(whole))
    if options.only in (None, "measure", "report"):
        kit.check_complete()


class Kit:
    """One run: the hardware, the engine and the steps."""

    def __init__(self, options: Options, card: Card | None) -> None:
        self._options = options
        self._card = card
        self._kind = Kind.GPU if card else Kind.REHEARSAL
        self._work = options.work or _cache()
        self._engine = Engine(options, self._work, card.architecture if card else None)
        self._stock = Stock(options.models or self._work / "models")
        self._skipped: list[str] = []  # models for lack of disk space
        self._memory_bytes = card.free_bytes if card else ram.free_bytes()

    @property
    def introduction(self) -> str:
        what = f"GPU {self._card.name}" if self._card else "rehearsal on the CPU, which says nothing about a GPU"
        return f"{what}; {self._memory_bytes / 1024**3:.1f} GiB free; work in {self._work}"

    def build(self, deadline: Deadline) -> None:
        self._engine.build(deadline)

    def write_models(self, deadline: Deadline) -> None:
        """Write as many of the models still to be measured as fit on the disk."""
        for shape in self._to_measure():
            if self._stock.has(shape):
                continue
            if self._stock.free_bytes < shape.data_bytes:
                say(f"  disk full: {shape.label} and larger models are written after others have been measured")
                return
            self._stock.write(shape, deadline)

    def measure(self, deadline: Deadline) -> None:
        """Measure every start without a row; reports partial results when time runs out."""
        bench = Bench(self._engine.facts, self._card, self._work / "logs", self._overhead_bytes)
        if self._card and "bare_context_bytes" not in self._results.machine:
            self._results.machine["bare_context_bytes"] = self._card.bare_context_bytes()
        try:
            for shape in self._to_measure():
                self._measure_model(bench, shape, deadline)
        except OutOfTime:
            if self._results.rows:
                self.report(deadline)
            raise

    def loads(self, deadline: Deadline) -> None:
        """Time the loads of the largest model on the disk, unless that was done."""
        written = [shape for shape in self._plan() if self._stock.has(shape)]
        if not written or "loads" in self._results.machine:
            return
        shape, uuid = written[-1], self._card.uuid if self._card else None
        rows = load_rows(self._stock.path(shape), self._engine.facts, uuid, self._work / "logs", deadline)
        self._results.machine["loads"] = {"model": shape.label, "rows": rows}
        self._results.write()
        for row in rows:
            say(f"  {shape.label}: {row}")

    def report(self, _: Deadline) -> None:
        """Write the table, and the overhead of this GPU for the estimates."""
        results, machine = self._results, self._results.machine
        if not results.rows:
            self.check_complete()
            raise CannotContinue(f"nothing measured yet: {results.folder} has no rows")
        figures = summary(self._kind, results.rows, machine.get("bare_context_bytes"))
        results.write(figures)
        text = table(self._kind, machine, results.rows, figures)
        (results.folder / "table.md").write_text(text)
        say(text.partition("\n## Every start")[0])
        if self._card and (entry := overheads.entry(machine, results.rows, self._options.date)):
            overheads.keep(self._card.name, entry, self._options.overheads)
            say(f"{self._options.overheads}: {self._card.name}: {entry}")
        say(f"{len(results.rows)} rows in {results.folder}")

    def check_complete(self) -> None:
        """Raises CannotContinue unless every planned start was measured successfully."""
        if self._skipped:
            models = ", ".join(self._skipped)
            raise CannotContinue(f"not enough disk space for {models}; set --models to another disk and run again")
        if failed := [row for row in self._results.rows if "error" in row]:
            raise CannotContinue(
                f"{len(failed)} of {len(self._results.rows)} starts failed; see table.md; run again to retry"
            )

    def _measure_model(self, bench: Bench, shape: Shape, deadline: Deadline) -> None:
        if not self._stock.has(shape):
            plan = self._plan()
            if not self._stock.free_space(shape, plan, [each for each in plan if not self._starts_left(each)]):
                say(f"  not enough disk space for {shape.label}: skipped")
                self._skipped.append(f"{shape.label} ({shape.data_bytes / 1024**3:.1f} GiB)")
                return
            self._stock.write(shape, deadline)
        for start in self._starts_left(shape):
            deadline.check()
            row = measured(bench, shape, self._stock.path(shape), start, deadline)
            self._results.add(row)
            say(f"  {row['key']}: {_in_short(row)}")

    # --- remaining work ----------------------------------------------------------------------------------

    def _to_measure(self) -> list[Shape]:
        return [each for each in self._plan() if self._starts_left(each)]

    def _plan(self) -> list[Shape]:
        return planned(self._kind, self._memory_bytes, self._stock.capacity_bytes, self._options.quick)

    def _starts_left(self, shape: Shape) -> list[Start]:
        found = model_shape(shape.header)

        def fits(start: Start) -> bool:
            needed = estimated(found, start, self._card is not None, self._overhead_bytes)
            return (needed.devices[0] if needed.devices else needed.host).booked_bytes <= self._memory_bytes

        all_ = starts(self._kind, shape.context_length, shape.data_bytes, shape.task, fits, self._options.quick)
        return [each for each in all_ if not self._results.has(key(shape, each))]

    @property
    def _overhead_bytes(self) -> int:
        """The overhead assumed by the estimates of all rows; fixed before the first one is measured."""
        return int(self._results.machine.get("assumed_overhead_bytes", 0))

    # --- results ---------------------------------------------------------------------------------------------

    @functools.cached_property
    def _results(self) -> Results:
        name = (self._card.name if self._card else str(self._kind)) + (" quick" if self._options.quick else "")
        results = Results(self._options.results / folder_name(name, self._options.date), self._facts)
        if self._card:
            assumed = measured_overheads().get(self._card.name, GPU_OVERHEAD_BYTES)
            results.machine.setdefault("assumed_overhead_bytes", assumed)
        return results

    @property
    def _facts(self) -> dict[str, Any]:
        engine = self._engine.facts
        facts = {
            "kind": str(self._kind),
            "engine": str(engine.kind),
            "llama_cpp": engine.version,
            "cores": len(os.sched_getaffinity(0)),
            "ram_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "python": sys.version.split()[0],
        }
        return facts | (self._card.facts if self._card else {})


def _in_short(row: Row) -> str:
    if "error" in row:
        return f"failed: {row['error'].splitlines()[0]}"
    ours, buffers = items(row["estimated"]) / MIB, items(row["loaded"]) / MIB
    shown = " -> ".join(f"{row[moment]['bytes'] / MIB:.1f}" for moment in ("shown_loaded", "shown_prompted"))
    return f"estimated {ours:.1f} MiB, {buffers:.1f} in buffers, {shown} shown"


def _cache() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("llama-smart-proxy")) / "gpu-kit"


def say(text: str) -> None:
    print(text, flush=True)
