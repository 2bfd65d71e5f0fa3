"""Builds the tool: a library, linked to the embedded engine's, that a Python process calls."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import mmap
import os
from pathlib import Path

from app.use_cases.engines.source_packages import PACKAGE
from bench.truth.cuda_functions import cuda_functions
from workers.engine_builds.logged_command import run_logged
from workers.engine_builds.source import Source, find_source
from workers.engine_builds.source_download import download_source
from workers.engine_builds.stopping import CannotContinue, Deadline

WORK = Path("build/truth")  # ignored by git
SDIST = "ENGINE_SDIST"  # names a source package that is here, as for `make test-engine`
_NATIVE = Path(__file__).with_name("native")
_STAND_IN, _FIGURES = "stand_in_cuda.cpp", "memory_figures.cpp"
_INCLUDED = {
    _STAND_IN: ("ggml/src", "ggml/include"),
    _FIGURES: ("common", "tools/mtmd", "src", "include", "ggml/include", "vendor"),
}
_BUILD_SECONDS = 900.0
# A function of the engine's that returns a std::string, by the name it has with libstdc++'s newer one.
_NEWER_STRINGS = b"_Z13string_formatB5cxx11PKcz"


def engine_version() -> str:
    """Of the installed xllamacpp: "2026.10.11549"."""
    return importlib.metadata.version(PACKAGE)


def engine_build() -> str:
    """Of the llama.cpp in it: "11549"."""
    return engine_version().rpartition(".")[2]


def engine_source(sdist: Path | None, work: Path = WORK) -> Source:
    """llama.cpp's source, of the installed engine's version; fetched unless `sdist` or ENGINE_SDIST has it.

    Raises CannotContinue.
    """
    given = sdist or (Path(os.environ[SDIST]) if os.environ.get(SDIST) else None)
    source = find_source(given or download_source(engine_version(), work), work / "source")
    if source.build != engine_build():
        raise CannotContinue(f"{given} has build {source.build}, and the installed {PACKAGE} is {engine_version()}")
    return source


def built_tool(sdist: Path | None = None, work: Path = WORK) -> Path:
    """The tool for the installed engine, built unless it is there. Raises CannotContinue."""
    folder = work.absolute() / f"tool-{engine_build()}-{_fingerprint()}"
    tool = folder / "memory_figures.so"
    if not tool.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _build(engine_source(sdist, work).folder, folder, tool)
    return tool


def engine_library() -> Path:
    """The embedded engine's library, found without importing it. Raises CannotContinue."""
    found = importlib.util.find_spec(PACKAGE)
    for folder in (found.submodule_search_locations if found else None) or ():
        for library in Path(folder).glob("*.so"):
            return library
    raise CannotContinue(f"{PACKAGE} is not installed: `make install` does it")


def _fingerprint() -> str:
    """Of what the tool is made of, and of where its engine is: a link names the library's place."""
    texts = [(_NATIVE / name).read_bytes() for name in (_STAND_IN, _FIGURES)]
    cut = Path(__file__).with_name("cuda_functions.py").read_bytes()
    return hashlib.sha256(b"\0".join([*texts, cut, bytes(engine_library())])).hexdigest()[:8]


def _build(source: Path, folder: Path, tool: Path) -> None:
    deadline, log = Deadline(_BUILD_SECONDS), folder / "build.log"
    (folder / "cuda_functions.inc").write_text(cuda_functions(source))
    objects = [str(folder / f"{name}.o") for name in _INCLUDED]
    compile_ = ["c++", "-std=c++17", "-O1", "-w", "-fPIC", f"-D_GLIBCXX_USE_CXX11_ABI={int(has_newer_strings())}"]
    for (name, folders), made in zip(_INCLUDED.items(), objects, strict=True):
        included = [f"-I{path}" for path in (folder, *(source / each for each in folders))]
        command = [*compile_, *included, "-c", str(_NATIVE / name), "-o", made]
        run_logged(command, os.environ, log, deadline, f"{name} does not fit this llama.cpp")
    library = engine_library()
    # The engine's own undefined symbols are Python's. Ours must all be found in the engine.
    checked = ["-Wl,-z,defs", "-Wl,--allow-shlib-undefined", f"-Wl,-rpath,{library.parent}"]
    part = f"{tool}.part"
    command = ["c++", "-shared", "-o", part, *objects, str(library), *checked]
    run_logged(command, os.environ, log, deadline, "the tool does not fit the engine's library")
    os.replace(part, tool)


def has_newer_strings() -> bool:
    """Whether the engine was compiled with libstdc++'s newer std::string: wheels for old systems are not."""
    with open(engine_library(), "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(_NEWER_STRINGS) >= 0
