"""Builds llama-server for one CUDA architecture or for the CPU. Builds are incremental."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.gpu.cuda_libraries import CudaLibraries
from bench.gpu.source import Source
from bench.gpu.stopping import CannotContinue, Deadline, OutOfTime

STOP_SECONDS = 10.0
LAST_LINES = 12
PROGRESS_BYTES = 64 * 1024
_PROGRESS = re.compile(rb"^\[\s*(\d+)[/%]\s*(\d*)\]")

# Only what llama-server needs, and nothing that uses the network.
OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_ALL_WARNINGS": "OFF",
    "GGML_ALL_WARNINGS": "OFF",
    "LLAMA_CURL": "OFF",  # for older builds; newer ones warn that it is unused
}
CUDA_OPTIONS = {
    "GGML_CUDA": "ON",
    "GGML_CUDA_FA_ALL_QUANTS": "OFF",  # kernels for mixed K and V types: most of the build time
    "GGML_CUDA_NCCL": "OFF",  # one GPU
}


def cmake_options(source: Source, architecture: str | None, libraries: CudaLibraries | None) -> dict[str, str]:
    """All CMake variables. `architecture` is a compute capability without its dot, or None for the CPU."""
    options = dict(OPTIONS)
    if source.build != "unknown":
        options["LLAMA_BUILD_NUMBER"] = source.build
    if architecture:
        options |= CUDA_OPTIONS | {"CMAKE_CUDA_ARCHITECTURES": f"{architecture}-real"}
    if libraries:
        options |= libraries.cmake_options
    return options


def missing_tools() -> str:
    """Build tools that are missing, comma-separated; empty if none is."""
    missing = [name for name in ("cmake",) if not shutil.which(name)]
    missing += [] if shutil.which("ninja") or shutil.which("make") else ["ninja or make"]
    missing += [] if shutil.which("c++") or shutil.which("g++") or shutil.which("clang++") else ["a C++ compiler"]
    return ", ".join(missing)


def build(
    source: Source,
    folder: Path,
    options: Mapping[str, str],
    deadline: Deadline,
    include: Sequence[str] = (),
    jobs: int | None = None,
) -> Path:
    """Build llama-server in `folder` unless it is up to date; returns its path. Raises CannotContinue, OutOfTime."""
    if is_built(folder, options):
        return binary_in(folder)
    folder.mkdir(parents=True, exist_ok=True)
    environment = _environment(include)
    log = folder / "build.log"
    if not _matches(folder / "configured", options):
        generator = ["-G", "Ninja"] if shutil.which("ninja") else []
        chosen = [f"-D{name}={value}" for name, value in options.items()]
        configure = ["cmake", "-S", str(source.folder), "-B", str(folder), *generator, *chosen]
        _run(configure, environment, log, deadline, "cmake could not configure the build")
        (folder / "configured").write_text(json.dumps(options))
    compile_ = ["cmake", "--build", str(folder), "--target", "llama-server", "--parallel", str(jobs or _cores())]
    _run(compile_, environment, log, deadline, "llama-server could not be built")
    (folder / "built").write_text(json.dumps(options))
    return binary_in(folder)


def binary_in(folder: Path) -> Path:
    return folder / "bin" / "llama-server"


def is_built(folder: Path, options: Mapping[str, str]) -> bool:
    """Whether a complete build with these options exists."""
    return _matches(folder / "built", options) and binary_in(folder).is_file()


def _matches(stamp: Path, options: Mapping[str, str]) -> bool:
    return stamp.is_file() and stamp.read_text() == json.dumps(options)


def _environment(include: Sequence[str]) -> dict[str, str]:
    """The environment with additional include folders in CPATH, which all compilers search."""
    folders = [*include, *filter(None, [os.environ.get("CPATH")])]
    return {**os.environ, **({"CPATH": os.pathsep.join(folders)} if folders else {})}


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _run(command: Sequence[str], environment: Mapping[str, str], log: Path, deadline: Deadline, failed: str) -> None:
    deadline.check()
    with (
        open(log, "ab") as file,
        subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            _wait(process, log, deadline)
        except BaseException:
            _stop(process)
            raise
    if process.returncode:
        raise CannotContinue(f"{failed}; {log} ends with:\n{_tail(log)}")


def _wait(process: subprocess.Popen[bytes], log: Path, deadline: Deadline) -> None:
    reported = b""
    while deadline.seconds_left:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(min(20.0, deadline.seconds_left))
            return
        if (step := _progress(log)) not in (reported, b""):
            reported = step
            print(f"  {step.decode()}", flush=True)
    raise OutOfTime


def _progress(log: Path) -> bytes:
    with open(log, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - PROGRESS_BYTES))
        lines = file.read().splitlines()
    return next((found[0] for line in reversed(lines) if (found := _PROGRESS.match(line))), b"")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Interrupt first: ninja and make then remove partial files."""
    for number, seconds in ((signal.SIGINT, STOP_SECONDS), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:])
