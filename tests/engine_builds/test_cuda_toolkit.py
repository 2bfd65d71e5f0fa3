"""The system's CUDA toolkits, and the one of NVIDIA's packages, with scripts in place of nvcc and pip."""

import shutil
import subprocess
from pathlib import Path

import pytest

from app.use_cases.engines.cuda import PACKAGED, Toolkit
from tests.helpers.stand_in_nvml import needs_compiler
from workers.engine_builds import cuda_toolkit
from workers.engine_builds.cuda_toolkit import find_toolkits, install_packaged, packaged_folder, toolkit_options
from workers.engine_builds.stopping import CannotContinue, Deadline

pytestmark = pytest.mark.integration

NVCC = """\
#!/bin/sh
case $1 in
  --dryrun) echo "#$ TOP=$(dirname "$0")/.." >&2;;
  --version) echo "Cuda compilation tools, release {version}, V{version}.88";;
  --list-gpu-code) printf 'sm_75\\nsm_89\\nsm_90a\\nsm_120\\n';;
esac
"""
# What pip does with the packages: NVIDIA's layout, with neither lib64 nor names without a version.
PIP = """\
#!/bin/sh
echo "$@" >>"$(dirname "$0")/../asked"
root="$(dirname "$0")/../lib/python3.11/site-packages/nvidia/cu13"
mkdir -p "$root/bin" "$root/lib" "$root/include"
touch "$root/bin/nvcc" "$root/lib/libcublas.so.13" "$root/lib/libcudart.so.13" "$root/lib/libcudart_static.a"
echo 'CUresult cuInit(unsigned flags); CUresult cuMemAlloc_v2(void);' >"$root/include/cuda.h"
"""


def a_program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def a_toolkit(root: Path, version: str, *, has_cublas: bool = True) -> Path:
    a_program(root / "bin/nvcc", NVCC.replace("{version}", version))
    for file in ("lib64/libcublas.so", "include/cublas_v2.h") if has_cublas else ():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def an_environment(folder: Path, python: str) -> Path:
    a_program(folder / "bin/pip", "")
    return a_program(folder / "bin/python", python)


@pytest.fixture(autouse=True)
def a_machine_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_toolkit, "_DISTRIBUTION_LIBRARIES", ())


@pytest.fixture
def packaged(tmp_path: Path) -> Path:
    """The folder of the packages' environment, where a script does pip's work."""
    an_environment(packaged_folder(tmp_path), PIP)
    return packaged_folder(tmp_path)


def test_a_toolkit_is_what_its_nvcc_says(tmp_path):
    root = a_toolkit(tmp_path / "usr/local/cuda-12.9", "12.9")
    found = find_toolkits({"PATH": "/usr/bin:/bin"}, tmp_path)
    assert Toolkit(str(root), (12, 9), frozenset(((7, 5), (8, 9), (12, 0)))) in found


def test_the_toolkit_of_the_environment_comes_first_and_each_is_listed_once(tmp_path):
    ours, newest = a_toolkit(tmp_path / "mine", "12.4"), a_toolkit(tmp_path / "usr/local/cuda-13.1", "13.1")
    a_toolkit(tmp_path / "usr/local/cuda-12.9", "12.9")
    (tmp_path / "usr/local/cuda").symlink_to("cuda-13.1")
    found = find_toolkits({"CUDA_HOME": str(ours), "PATH": str(newest / "bin")}, tmp_path)
    assert [each.version for each in found] == [(12, 4), (13, 1), (12, 9)]


def test_a_compiler_without_cublas_is_no_toolkit(tmp_path):
    a_toolkit(tmp_path / "usr/local/cuda", "13.0", has_cublas=False)
    assert find_toolkits({"PATH": ""}, tmp_path) == []


def test_an_nvcc_that_fails_is_no_toolkit(tmp_path):
    a_program(tmp_path / "usr/local/cuda/bin/nvcc", "#!/bin/sh\nexit 1\n")
    assert find_toolkits({"PATH": ""}, tmp_path) == []


def test_nvidias_packages_become_a_toolkit_that_a_linker_can_use(tmp_path, packaged):
    toolkit = install_packaged(tmp_path, Deadline(20))
    root = Path(toolkit.root)
    assert toolkit.codes == PACKAGED.codes
    assert (root / "lib64/libcublas.so").samefile(root / "lib/libcublas.so.13")
    assert (root / "lib/libcudart.so").is_symlink()
    assert "cuda-toolkit[cccl,crt,cublas,cudart,nvcc,nvvm]==13." in (packaged / "asked").read_text()


def test_the_packages_are_installed_once(tmp_path, packaged):
    first = install_packaged(tmp_path, Deadline(20))
    assert install_packaged(tmp_path, Deadline(20)) == first
    assert len((packaged / "asked").read_text().splitlines()) == 1


def test_an_installation_that_failed_is_repeated(tmp_path):
    pip = an_environment(packaged_folder(tmp_path), "#!/bin/sh\necho 'ERROR: no such host'\nexit 1\n")
    with pytest.raises(CannotContinue, match=r"(?s)CUDA packages could not be installed.*no such host"):
        install_packaged(tmp_path, Deadline(20))
    a_program(pip, PIP)
    assert install_packaged(tmp_path, Deadline(20)).root


@needs_compiler
def test_a_build_links_with_the_drivers_library_where_there_is_no_driver(tmp_path, packaged):
    options = toolkit_options(install_packaged(tmp_path, Deadline(20)), tmp_path)
    stub = options["CUDA_cuda_driver_LIBRARY"]
    program = tmp_path / "calls.c"
    program.write_text("int cuInit(unsigned); int main(void) { return cuInit(0); }")
    subprocess.run(["cc", program, stub, "-o", tmp_path / "calls"], check=True)
    ran = subprocess.run([tmp_path / "calls"], capture_output=True, text=True, check=False)
    assert "libcuda.so.1" in ran.stderr, "the driver's library itself is looked for at run time"


def test_the_libraries_are_found_at_run_time_and_the_toolkits_own_stub_is_used(tmp_path):
    root = a_toolkit(tmp_path / "cuda", "12.9")
    a_program(root / "lib64/stubs/libcuda.so", "")
    options = toolkit_options(Toolkit(str(root), (12, 9), PACKAGED.codes), tmp_path)
    assert options["CMAKE_INSTALL_RPATH"] == str(root / "lib64")
    assert options["CMAKE_CUDA_COMPILER"] == str(root / "bin/nvcc")
    assert "CUDA_cuda_driver_LIBRARY" not in options


def test_no_c_compiler_is_one_line(tmp_path, packaged, monkeypatch):
    toolkit = install_packaged(tmp_path, Deadline(20))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(CannotContinue, match=r"a C compiler \(cc\) is missing"):
        toolkit_options(toolkit, tmp_path)
