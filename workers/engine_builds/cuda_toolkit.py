"""Finds the CUDA toolkits of the system, and makes one of NVIDIA's packages on PyPI.

The packages have no libcuda.so to link with (it belongs to the driver, which the machine that builds may lack), no
lib64, and no unversioned libraries: what a linker and CMake look for is added here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from app.use_cases.engines.cuda import PACKAGED, Toolkit
from workers.engine.installed_engines import engines_folder
from workers.engine_builds.python_environment import install_packages
from workers.engine_builds.stopping import CannotContinue, Deadline

# The packages of one release of CUDA, which fit each other. 440 MB to download.
REQUIREMENT = "cuda-toolkit[cccl,crt,cublas,cudart,nvcc,nvvm]==13.0.2"
PACKAGED_MACHINES = ("x86_64", "aarch64")
PACKAGED_BYTES = 900 * 1024**2  # on disk

_LIBRARY_FOLDERS = ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib")
_INCLUDE_FOLDERS = ("include", "targets/x86_64-linux/include", "targets/sbsa-linux/include")
_DISTRIBUTION_LIBRARIES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64")  # Debian, Fedora
_PROBE_SECONDS = 20.0


def find_toolkits(environ: Mapping[str, str] = os.environ, system: Path = Path("/")) -> list[Toolkit]:
    """The system's, each once: those of CUDA_HOME, CUDA_PATH and PATH first. Those without cuBLAS are left out."""
    roots = dict.fromkeys(root for nvcc in _compilers(environ, system) if (root := _root_of(nvcc)))
    return [toolkit for root in roots if _has_cublas(root) and (toolkit := _toolkit(root))]


def check_packaged_for(machine: str) -> None:
    """Raises CannotContinue unless NVIDIA has packages for it. `machine` as of uname -m."""
    if machine not in PACKAGED_MACHINES:
        raise CannotContinue(
            f"NVIDIA's packages on PyPI are for {' and '.join(PACKAGED_MACHINES)}, and this is {machine}: install the "
            "system's CUDA toolkit, or use --vulkan or --cpu"
        )


def install_packaged(cache: Path, deadline: Deadline) -> Toolkit:
    """The toolkit of NVIDIA's packages, in an environment of its own in the cache directory, installed unless it is.

    Raises CannotContinue, OutOfTime.
    """
    folder = packaged_folder(cache)
    install_packages(folder, (REQUIREMENT,), deadline, "NVIDIA's CUDA packages could not be installed")
    root = _packaged_root(folder)
    _complete(root)
    return replace(PACKAGED, root=str(root))


def packaged_folder(cache: Path) -> Path:
    """Engines built with the packages find cuBLAS and the CUDA runtime here, too."""
    return engines_folder(cache) / f".cuda-{PACKAGED.version[0]}.{PACKAGED.version[1]}"


def toolkit_options(toolkit: Toolkit, cache: Path) -> dict[str, str]:
    """CMake variables for a build with it, whose libraries the engine then finds. Raises CannotContinue."""
    root = Path(toolkit.root)
    options = {"CMAKE_CUDA_COMPILER": str(root / "bin" / "nvcc"), "CUDAToolkit_ROOT": str(root)}
    if folder := _folder_of("libcublas.so*", root):
        # CMake leaves it out: nvcc itself names the folder, so it passes for one that the loader searches.
        # Exactly this folder: a build's own run path is padded, and an empty entry means the current directory.
        options |= {"CMAKE_BUILD_WITH_INSTALL_RPATH": "ON", "CMAKE_INSTALL_RPATH": str(folder)}
    if not any((folder / "stubs/libcuda.so").is_file() for folder in _libraries(root)):
        stub = engines_folder(cache) / ".cuda-driver" / "libcuda.so"
        _write_driver_stub(root, stub)
        options["CUDA_cuda_driver_LIBRARY"] = str(stub)
    return options


def _compilers(environ: Mapping[str, str], system: Path) -> Iterator[Path]:
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if folder := environ.get(name):
            yield Path(folder) / "bin/nvcc"
    if found := shutil.which("nvcc", path=environ.get("PATH", "")):
        yield Path(found)
    yield system / "usr/local/cuda/bin/nvcc"
    yield from sorted((system / "usr/local").glob("cuda-*/bin/nvcc"), reverse=True)
    yield system / "opt/cuda/bin/nvcc"


def _root_of(nvcc: Path) -> str:
    """The toolkit's folder as nvcc reports it, "" if it does not: the one on PATH may be a script."""
    found = re.search(r"^#\$ TOP=(.+)", _said_by(nvcc, "--dryrun", "x.cu"), re.MULTILINE)
    return os.path.realpath(found[1].strip()) if found else ""


def _toolkit(root: str) -> Toolkit | None:
    nvcc = Path(root) / "bin" / "nvcc"
    version = re.search(r"\brelease (\d+)\.(\d+)", _said_by(nvcc, "--version"))
    codes = re.findall(r"\bsm_(\d+)(\d)\b", _said_by(nvcc, "--list-gpu-code"))
    if not version or not codes:
        return None
    return Toolkit(root, (int(version[1]), int(version[2])), frozenset((int(a), int(b)) for a, b in codes))


def _said_by(nvcc: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            [nvcc, *arguments], capture_output=True, text=True, errors="replace", timeout=_PROBE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


def _has_cublas(root: str) -> bool:
    headers = [*(Path(root) / each for each in _INCLUDE_FOLDERS), Path("/usr/include")]
    return bool(_folder_of("libcublas.so*", Path(root))) and any((each / "cublas_v2.h").is_file() for each in headers)


def _folder_of(pattern: str, root: Path) -> Path | None:
    return next((folder for folder in _libraries(root) if any(folder.glob(pattern))), None)


def _libraries(root: Path) -> Iterator[Path]:
    yield from (root / each for each in _LIBRARY_FOLDERS)
    yield from map(Path, _DISTRIBUTION_LIBRARIES)


def _packaged_root(folder: Path) -> Path:
    """The toolkit in the environment. Raises CannotContinue."""
    found = next(folder.glob("lib/python*/site-packages/nvidia/cu13/bin/nvcc"), None)
    if not found:
        raise CannotContinue(f"{REQUIREMENT} has no nvcc; delete {folder}, and try again")
    return found.parent.parent


def _complete(root: Path) -> None:
    """Adds the names that nvcc and CMake look for."""
    _link(root / "lib64", "lib")
    for library in (root / "lib").glob("*.so.*"):
        _link(library.with_name(library.name.partition(".so.")[0] + ".so"), library.name)


def _link(link: Path, target: str) -> None:
    if not link.exists():
        link.symlink_to(target)


def _write_driver_stub(root: Path, stub: Path) -> None:
    """A libcuda.so with the driver's functions, to link with. It is never loaded: its soname is the driver's."""
    if stub.is_file():
        return
    header = next((root / each / "cuda.h" for each in _INCLUDE_FOLDERS if (root / each / "cuda.h").is_file()), None)
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if not header or not compiler:
        missing = "cuda.h" if not header else "a C compiler (cc)"
        raise CannotContinue(f"the driver's library cannot be linked: {missing} is missing in {root}")
    stub.parent.mkdir(parents=True, exist_ok=True)
    names = sorted(set(re.findall(r"\bcu[A-Z]\w*", header.read_text(errors="replace"))))
    source = "".join(f"void {name}(void) {{}}\n" for name in names)
    command = [compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-x", "c", "-", "-o", str(stub)]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotContinue(f"the driver's library cannot be linked: {done.stderr.strip().splitlines()[-1:]}")
