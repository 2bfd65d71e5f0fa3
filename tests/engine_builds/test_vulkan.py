"""What a build for Vulkan needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.engine_builds.stopping import CannotContinue
from workers.engine_builds.vulkan import check_vulkan

FILES = ("bin/glslc", "include/vulkan/vulkan.h", "include/spirv/unified1/spirv.hpp")


def an_sdk(folder: Path, *files: str) -> dict[str, str]:
    """The environment with an SDK that has these."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return {"VULKAN_SDK": str(folder), "PATH": str(folder / "no tools")}


@pytest.mark.parametrize(
    ("there", "missing"),
    [
        ((), "glslc and the Vulkan headers and the SPIR-V headers"),
        (FILES[1:], "glslc"),
        (FILES[::2], "the Vulkan headers"),
        (FILES[:2], "the SPIR-V headers"),
    ],
)
def test_what_is_missing_is_one_line_with_the_packages_that_have_it(tmp_path: Path, there, missing: str):
    with pytest.raises(CannotContinue, match=rf"^a build for Vulkan needs {missing}: .*apt install .*dnf install .*"):
        check_vulkan(an_sdk(tmp_path, *there), system=())


def test_an_sdk_or_the_system_s_packages_will_do(tmp_path: Path):
    environ = an_sdk(tmp_path, *FILES)
    check_vulkan(environ, system=())
    (tmp_path / "bin/glslc").chmod(0o755)
    check_vulkan({"PATH": str(tmp_path / "bin")}, system=(str(tmp_path / "include"),))
    check_vulkan({"PATH": str(tmp_path / "bin"), "CPATH": str(tmp_path / "include")}, system=())
