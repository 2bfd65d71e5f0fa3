"""Names of the processes on a GPU: enough to know what it is, and nothing that may be a secret."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.helpers.service import wait_for
from workers.gpu.programs import Programs

pytestmark = pytest.mark.integration

Start = Callable[..., subprocess.Popen[bytes]]
PYTHON = Path(sys.executable).name
SLEEP = "import time; time.sleep(60)"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts Python with these arguments in a folder that has a program."""
    started: list[subprocess.Popen[bytes]] = []
    folder = tmp_path / "ComfyUI"
    folder.mkdir()
    (folder / "main.py").write_text(SLEEP)

    def python(*arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, *arguments], cwd=folder)
        started.append(process)
        # Linux shows the arguments a moment after Popen has returned (load_elf_binary closes the pipe first).
        wait_for(lambda: bool(psutil.Process(process.pid).cmdline()), 20)
        return process

    yield python
    for each in started:
        each.kill()
        each.wait(10)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("main.py", "--api-key", "secret"), f"{PYTHON} ComfyUI/main.py"),
        (("-u", "-W", "ignore", "./main.py"), f"{PYTHON} ComfyUI/main.py"),
        (("-m", "http.server", "0", "--bind", "127.0.0.1"), f"{PYTHON} -m http.server"),
        (("-c", SLEEP, "secret"), PYTHON),
    ],
)
def test_a_python_program_is_named_by_its_script_without_arguments(start: Start, arguments: list[str], name: str):
    process = start(*arguments)
    assert Programs().named([process.pid])[process.pid].name == name


def test_a_process_that_has_ended_has_no_name_and_is_forgotten(start: Start):
    process, programs = start("-c", SLEEP), Programs()
    assert [*programs.named([process.pid])] == [process.pid]
    process.kill()
    process.wait(10)
    assert programs.named([process.pid]) == {}


def test_a_name_is_read_once_for_each_process(start: Start, monkeypatch: pytest.MonkeyPatch):
    process, programs = start("-c", SLEEP), Programs()
    first = programs.named([process.pid])
    monkeypatch.setattr(psutil.Process, "name", lambda self: pytest.fail("it was read again"))
    assert programs.named([process.pid]) == first
