"""Finds cuBLAS and the driver library for a CUDA build, also in Python packages if the toolkit has only the compiler.

The wheels of `nvidia-cublas` have no unversioned libcublas.so, so CMake's FindCUDAToolkit gets the exact files.
"""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LIBRARIES = {"cublas": "libcublas.so*", "cublasLt": "libcublasLt.so*"}
_DRIVERS = ("libcuda.so", "libcuda.so.1")
_DRIVER_FOLDERS = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib64",
    "/usr/local/nvidia/lib64",
    "/usr/local/nvidia/lib",
    "/usr/lib/aarch64-linux-gnu",
)


@dataclass(frozen=True, slots=True)
class CudaLibraries:
    """Libraries by their names in FindCUDAToolkit, and include folders."""

    files: dict[str, Path]
    include: tuple[str, ...] = ()

    @property
    def cmake_options(self) -> dict[str, str]:
        return {f"CUDA_{name}_LIBRARY": str(path) for name, path in self.files.items()}

    @property
    def missing(self) -> list[str]:
        return [name for name in (*_LIBRARIES, "cuda_driver") if name not in self.files]


def find_cuda_libraries() -> CudaLibraries:
    """The toolkit's own libraries if it has them, else those of Python packages."""
    files: dict[str, Path] = {}
    include: list[str] = []
    for folder in _folders():
        found = {name: path for name, pattern in _LIBRARIES.items() if (path := _first(folder, pattern))}
        if len(found) == len(_LIBRARIES) and not files:
            files = found
            headers = folder.parent / "include"
            include = [str(headers)] if (headers / "cublas_v2.h").is_file() else []
    if driver := _driver():
        files["cuda_driver"] = driver
    return CudaLibraries(files, tuple(include))


def _folders() -> Iterator[Path]:
    if toolkit := _toolkit():
        yield from (toolkit / each for each in ("lib64", "lib", "targets/x86_64-linux/lib"))
    for packages in (*site.getsitepackages(), *sys.path, *_site_packages_on_path()):
        yield from sorted(Path(packages).glob("nvidia/*/lib"), reverse=True)


def _site_packages_on_path() -> Iterator[str]:
    """Site-packages of the Python on PATH, which may differ from the running one."""
    for name in ("python3", "python"):
        if other := shutil.which(name):
            code = "import site; print(*site.getsitepackages(), sep='\\n')"
            done = subprocess.run([other, "-c", code], capture_output=True, text=True, check=False)
            yield from done.stdout.splitlines()


def _toolkit() -> Path | None:
    """The toolkit's folder as reported by nvcc: the nvcc on PATH may be a wrapper script."""
    if not (nvcc := shutil.which("nvcc")):
        return None
    output = subprocess.run([nvcc, "--dryrun", "x.cu"], capture_output=True, text=True, check=False).stderr
    line = next((line for line in output.splitlines() if line.startswith("#$ TOP=")), "")
    return Path(os.path.realpath(line.removeprefix("#$ TOP="))) if line else None


def _driver() -> Path | None:
    toolkit = _toolkit()
    stubs = [toolkit / "lib64" / "stubs", toolkit / "targets/x86_64-linux/lib/stubs"] if toolkit else []
    for folder in (*stubs, *map(Path, _DRIVER_FOLDERS), *map(Path, os.environ.get("LD_LIBRARY_PATH", "").split(":"))):
        for name in _DRIVERS:
            if (folder / name).is_file():
                return folder / name
    return None


def _first(folder: Path, pattern: str) -> Path | None:
    return min(folder.glob(pattern), default=None)
