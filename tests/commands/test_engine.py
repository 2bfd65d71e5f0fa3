"""The commands `engine install`, `list`, `use` and `remove`; a script in place of cmake makes scripted engines."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.commands import completion
from app.commands.cli import main
from tests.helpers.fake_llama_server import install_fake
from tests.helpers.service import wait_for
from workers.engine.installed_engines import installed_engines
from workers.engine_builds import machine
from workers.engine_builds.registry import build_lock

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


def source_folder(folder: Path) -> Path:
    """A source package that is a folder."""
    source = folder / "xllamacpp-2026.10.11549"
    (source / "llama.cpp" / "ggml").mkdir(parents=True, exist_ok=True)
    (source / "llama.cpp" / "CMakeLists.txt").touch()
    (source / "PKG-INFO").write_text("Name: xllamacpp\nVersion: 2026.10.11549\n")
    return source


def install(folder: Path) -> Result:
    return engine("install", "--cpu", "--sdist", str(source_folder(folder)))


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


def test_cuda_without_a_readable_card_is_one_line_before_anything_is_fetched(tmp_path, cache):
    result = engine("install", "--cuda", "--sdist", str(tmp_path))
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert "nvidia-smi" in result.stderr


def test_no_compiler_is_one_line(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    result = install(tmp_path)
    assert (result.exit_code, "no C++ compiler: install one" in result.stderr) == (1, True)


def cmake_that(folder: Path, script: str) -> None:
    """It runs this on `cmake --build`."""
    tool = folder / "bin" / "cmake"
    tool.write_text(f'#!/bin/sh\nif [ "$1" = --build ]; then\n{script}\nfi\n')


def test_a_full_disk_is_one_line_before_anything_is_fetched(tmp_path, cache, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=100 << 20))
    result = install(tmp_path)
    assert result.exit_code == 1
    said, why = result.stderr.splitlines()
    assert re.fullmatch(r"takes about \d+ min with \d+ compilers? at a time, and 512 MiB of disk in .*", said)
    assert why.startswith("not enough disk space in") and " MiB of 512 MiB are free. Next: " in why


def test_a_disk_that_fills_up_while_it_compiles_is_one_line_and_the_build_goes_on_later(tmp_path, cache):
    good = (tmp_path / "bin" / "cmake").read_text()
    cmake_that(tmp_path, "echo 'fatal error: error writing to /tmp/x.s: No space left on device'; exit 1")
    result = install(tmp_path)
    assert (result.exit_code, result.stderr.splitlines()[-1].partition(": ")[2].split(" on the disk")[0]) == (
        1,
        "no space left",
    )
    assert installed_engines(cache) == []
    (tmp_path / "bin" / "cmake").write_text(good)
    assert install(tmp_path).exit_code == 0


def test_a_compiler_that_fails_is_shown_with_its_last_words_and_the_log(tmp_path, cache):
    cmake_that(tmp_path, "echo 'ggml.c:1: error: unknown type'; exit 2")
    result = install(tmp_path)
    assert result.exit_code == 1
    log = cache / "engines/.build/cpu-11549/build.log"
    assert f"llama-server could not be built; {log} ends with:\nggml.c:1: error: unknown type" in result.stderr
    assert f"what the compilers say: {log}" in result.stderr


def test_an_engine_for_another_architecture_is_not_installed(tmp_path, cache):
    cmake_that(
        tmp_path,
        r"""mkdir -p "$2/bin"; printf '\177ELF\002\001\001' >"$2/bin/llama-server"
chmod +x "$2/bin/llama-server" """,
    )
    result = install(tmp_path)
    assert (result.exit_code, installed_engines(cache)) == (1, [])
    assert "Traceback" not in result.output
    assert "the new engine is not used: it fails on the CPU: " in result.stderr


def test_a_second_install_says_that_another_runs(tmp_path, cache):
    with build_lock(cache):
        result = install(tmp_path)
    assert (result.exit_code, result.stderr) == (1, "another `engine install` is running: wait for it\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_ends_the_command_ends_the_compilers_and_the_same_command_goes_on(tmp_path, cache, number):
    cmake_that(
        tmp_path,
        f"""mkdir -p "$2/bin"; echo '[1/2] compiled'; echo $$ >{tmp_path}/compiler.new
mv {tmp_path}/compiler.new {tmp_path}/compiler; sleep 100""",
    )
    source = source_folder(tmp_path)
    command = [sys.executable, "-m", "app.commands.cli", "engine", "install", "--cpu", "--sdist", source]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        compiler = int(wait_for(lambda: (tmp_path / "compiler").exists() and (tmp_path / "compiler").read_text(), 60))
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "stopped: the same command goes on where it ended"
    with pytest.raises(ProcessLookupError):
        os.kill(compiler, 0)
    build = cache / "engines/.build/cpu-11549"
    assert "[1/2] compiled" in (build / "build.log").read_text()
    assert (build / "configured").is_file(), "the next call configures nothing anew"


def test_names_of_engines_are_completed(tmp_path, cache):
    install(tmp_path)

    def completed(line: str) -> list[str]:
        variables = {"COMP_WORDS": f"llama-smart-proxy engine {line}", "_LLAMA_SMART_PROXY_COMPLETE": "bash_complete"}
        return CliRunner().invoke(main, prog_name=completion.PROGRAM, env=variables).stdout.split()

    assert completed("remove ") == ["plain,cpu-11549"]
    assert completed("use ") == ["plain,auto", "plain,cpu-11549"]
    assert completed("use c") == ["plain,cpu-11549"]
