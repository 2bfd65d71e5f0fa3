"""An engine that is replaced while the service runs is noticed, and asked anew."""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.entities.launch import EngineFacts
from tests.engine.test_binary import program
from workers.engine import current_engine
from workers.engine.current_engine import CurrentEngine
from workers.engine.engine_files import content_identity, running_files, stamps_of


def an_engine(folder: Path, version: str = "1 (a)", flags: str = "--model F, --port P") -> Path:
    """A llama-server with these options. Each question that it is asked is a line in the file `asked`."""
    return program(folder, f"echo $1 >> {folder}/asked; echo 'version: {version}'; echo '{flags}'")


def questions(folder: Path) -> int:
    return len((folder / "asked").read_text().splitlines())


def renewed(engine: CurrentEngine) -> EngineFacts:
    facts = engine.refresh()
    assert facts is not None
    return facts


def test_an_engine_is_asked_once_until_its_file_changes(tmp_path: Path):
    replaced: list[str] = []
    engine = CurrentEngine(str(an_engine(tmp_path)))
    engine.replaced = lambda: replaced.append(renewed(engine).version)  # no lock is held
    before = renewed(engine)
    assert (renewed(engine), questions(tmp_path), replaced) == (before, 2, [])  # --version and --help

    an_engine(tmp_path, "22 (b)", "--model F, --port P, --slots")
    after = renewed(engine)
    assert (before.version, after.version, engine.facts) == ("1 (a)", "22 (b)", after)
    assert before.identity != after.identity
    assert ("--slots" in before.flags, "--slots" in after.flags) == (False, True)
    assert (renewed(engine), questions(tmp_path), replaced) == (after, 4, ["22 (b)"])


def test_a_rebuild_of_the_same_version_is_another_build(tmp_path: Path):
    engine = CurrentEngine(str(an_engine(tmp_path)))
    before = renewed(engine)
    with open(tmp_path / "llama-server", "a") as file:
        file.write("# compiled for another CPU\n")
    after = renewed(engine)
    assert (before.version, before.flags) == (after.version, after.flags)
    assert before.identity != after.identity


def test_the_same_build_installed_again_keeps_its_identity(tmp_path: Path):
    path = an_engine(tmp_path)
    engine = CurrentEngine(str(path))
    before = renewed(engine)
    path.rename(tmp_path / "old")
    shutil.copyfile(tmp_path / "old", path)
    path.chmod(0o755)
    engine.replaced = lambda: pytest.fail("nothing has changed")
    assert (renewed(engine), questions(tmp_path)) == (before, 4)


def test_a_symbolic_link_to_another_build_is_noticed(tmp_path: Path):
    for name in ("v1", "v2"):
        (tmp_path / name).mkdir()
        an_engine(tmp_path / name, name)
    link = tmp_path / "llama-server"
    link.symlink_to("v1/llama-server")
    engine = CurrentEngine(str(link))
    assert renewed(engine).version == "v1"
    (tmp_path / "next").symlink_to("v2/llama-server")
    os.replace(tmp_path / "next", link)
    assert renewed(engine).version == "v2"


def test_a_replacement_that_does_not_work_keeps_the_facts_and_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Half of a copy, or a library that is missing: servers that run do not notice, and no other engine is taken."""
    path = an_engine(tmp_path)
    replaced: list[str] = []
    engine = CurrentEngine(str(path), lambda: replaced.append(engine.problem))
    before = engine.facts
    program(tmp_path, "echo libllama.so: cannot open shared object file; exit 127")
    assert engine.refresh() is None
    assert engine.facts == before
    assert "is not a llama-server: its --help does not list --model and --port: libllama.so" in engine.problem
    an_engine(tmp_path, "2 (b)")
    assert engine.refresh() is None, "asked every few seconds only"
    monkeypatch.setattr(current_engine, "RETRY_SECONDS", 0.0)
    path.unlink()
    engine._ask_at = 0.0
    assert engine.refresh() is None
    assert "does not exist" in engine.problem
    an_engine(tmp_path, "3 (c)")
    assert (renewed(engine).version, engine.problem) == ("3 (c)", "")
    assert [bool(problem) for problem in replaced] == [True, True, False]


def test_an_engine_that_was_missing_is_found_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(current_engine, "RETRY_SECONDS", 0.0)
    engine = CurrentEngine(str(tmp_path / "llama-server"))
    assert (engine.facts, engine.refresh()) == (None, None)
    assert "does not exist" in engine.problem
    an_engine(tmp_path)
    assert renewed(engine).version == "1 (a)"


def test_the_embedded_engine_is_identified_by_its_build_and_watched():
    engine = CurrentEngine("embedded")
    facts = renewed(engine)
    assert facts.identity.startswith(f"{facts.version} ") and len(facts.identity.split()) == 3
    assert {Path(file).suffix for file in facts.files} == {".py", ".so", ""}  # "": pip's RECORD
    assert all(os.path.exists(file) for file in facts.files)


# --- wrapper scripts and libraries ---------------------------------------------------------------------

# A shell of its own stands for the engine's executable: it prints a help as long as llama-server's, by itself.
HELP = """
echo 'version: 1 (a)'
echo '--model F, --port P'
n=0
while [ $n -lt 400 ]; do n=$((n+1)); echo '                                        what an option is for'; done
"""


def a_wrapped_engine(folder: Path, how: str) -> tuple[Path, Path]:
    """(a script that runs an engine, the executable of the engine)."""
    executable = folder / "bin" / "llama-server"
    executable.parent.mkdir()
    shutil.copyfile(os.path.realpath(shutil.which("sh") or "/bin/sh"), executable)
    executable.chmod(0o755)
    (folder / "help").write_text(HELP)
    return program(folder, f"{how} {executable} {folder}/help $1", "wrapper"), executable


@pytest.mark.parametrize("how", ["exec", "", "setsid -w"])
def test_the_engine_behind_a_script_is_watched(tmp_path: Path, how: str):
    """A script that stays the same says nothing about what it runs."""
    script, executable = a_wrapped_engine(tmp_path, how)
    engine = CurrentEngine(str(script))
    before = renewed(engine)
    assert str(executable) in before.files
    assert renewed(engine) is before
    (tmp_path / "new").write_bytes(executable.read_bytes() + b"another build")
    (tmp_path / "new").chmod(0o755)
    os.replace(tmp_path / "new", executable)
    after = renewed(engine)
    assert (before.version, before.files) == (after.version, after.files)
    assert before.identity != after.identity


@pytest.fixture
def process_with_library(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A process that has mapped one of llama.cpp's libraries, and another file."""
    library = tmp_path / "libggml-cuda.so.0.9.4"
    for file in (library, tmp_path / "libcudart.so.13"):
        file.write_bytes(b"\x7fELF" * mmap.PAGESIZE)
    code = (
        "import mmap, sys\n"
        "files = [open(f) for f in sys.argv[1:]]\n"
        "maps = [mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) for f in files]\n"
        "print(flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(library), str(tmp_path / "libcudart.so.13")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid, library
        process.communicate("\n", timeout=20)


def test_the_libraries_of_llama_cpp_belong_to_the_engine(process_with_library: tuple[int, Path]):
    pid, library = process_with_library
    files = running_files(pid)
    assert files == (os.path.realpath(sys.executable), str(library))
    before, stamps = content_identity(files, "1"), stamps_of(files)
    library.write_bytes(b"\x7fELF" * mmap.PAGESIZE + b"rebuilt")
    assert content_identity(files, "1") != before
    assert stamps_of(files) != stamps


def test_a_process_that_has_exited_runs_from_no_file():
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert running_files(process.pid) == ()
