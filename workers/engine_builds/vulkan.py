"""What a build for Vulkan needs beside a compiler: glslc, and the headers of Vulkan and SPIR-V."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from workers.engine_builds.stopping import CannotContinue

# What llama.cpp's ggml-vulkan looks for (b11549): find_package(Vulkan COMPONENTS glslc), find_package(SPIRV-Headers).
_HEADERS = {"vulkan/vulkan.h": "the Vulkan headers", "spirv/unified1/spirv.hpp": "the SPIR-V headers"}
_SYSTEM = ("/usr/include", "/usr/local/include")


def check_vulkan(environ: Mapping[str, str] = os.environ, system: tuple[str, ...] = _SYSTEM) -> None:
    """Raises CannotContinue with what is missing, and the packages that have it."""
    missing = [] if _has_glslc(environ) else ["glslc"]
    folders = [*_given_folders(environ), *map(Path, system)]
    missing += [label for name, label in _HEADERS.items() if not any((each / name).is_file() for each in folders)]
    if missing:
        raise CannotContinue(
            f"a build for Vulkan needs {' and '.join(missing)}: install what is missing (Debian, Ubuntu: sudo apt "
            "install glslc libvulkan-dev spirv-headers; Fedora: sudo dnf install glslc vulkan-loader-devel "
            "spirv-headers-devel), then run the same command again"
        )


def _has_glslc(environ: Mapping[str, str]) -> bool:
    sdk = environ.get("VULKAN_SDK", "")
    return bool(
        shutil.which("glslc", path=environ.get("PATH", "")) or (sdk and (Path(sdk) / "bin" / "glslc").is_file())
    )


def _given_folders(environ: Mapping[str, str]) -> Iterator[Path]:
    yield from (Path(each) for each in environ.get("CPATH", "").split(os.pathsep) if each)
    for name in ("VULKAN_SDK", "CMAKE_PREFIX_PATH"):
        yield from (Path(each) / "include" for each in environ.get(name, "").split(os.pathsep) if each)
