"""A process that reads its model makes progress, whatever it prints."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.builders import MIB, a_launch, a_model, replace
from workers.server.load_reading import LoadReading, bytes_to_read, progress_of

pytestmark = pytest.mark.integration

# Does one thing for each line of its stdin, and says when it is done.
READER = """
import mmap, sys
file, maps = open(sys.argv[1], "rb"), []
for line in sys.stdin:
    exec(line)
    print(flush=True)
"""


class Reader:
    def __init__(self, process: subprocess.Popen[str], reading: LoadReading) -> None:
        self.process = process
        self.reading = reading

    def does(self, code: str) -> bool:
        """Whether it was seen to read after it did this."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(code + "\n")
        self.process.stdin.flush()
        self.process.stdout.readline()
        return self.reading.has_read()


@contextmanager
def reader(folder: Path, *prefix: str) -> Iterator[Reader]:
    """A process and what it reads of a file of 100 MiB."""
    file = folder / "model"
    with open(file, "wb") as content:
        content.truncate(100 * MIB)
    command = [*prefix, sys.executable, "-c", READER, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        found = Reader(process, LoadReading(process.pid, 100 * MIB))
        found.does("pass")  # it has read the interpreter
        yield found
        process.communicate(timeout=20)


READ = "file.read(30 * 2**20)"
MAP = (
    "m = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ); maps.append(m); "
    "sum(m[i] for i in range(0, 30 * 2**20, 4096))"
)


@pytest.mark.parametrize("how", [READ, MAP, "maps.append(bytearray(30 * 2**20))"])
def test_reading_and_touching_memory_are_signs_of_life(tmp_path: Path, how: str):
    with reader(tmp_path) as process:
        assert process.does(how)
        assert not process.does("pass")


@pytest.mark.parametrize("how", ["pass", "file.read(100)", "for _ in range(300_000): pass"])
def test_a_process_that_hardly_reads_shows_none(tmp_path: Path, how: str):
    with reader(tmp_path) as process:
        assert not process.does(how)


@pytest.mark.parametrize("how", [READ, MAP])
def test_progress_is_the_share_of_the_file_that_was_read(tmp_path: Path, how: str):
    with reader(tmp_path) as process:
        process.does(how)
        assert process.reading.progress == pytest.approx(0.3, abs=0.15)  # and the interpreter's own files


def test_what_a_script_runs_is_counted(tmp_path: Path):
    with reader(tmp_path, "sh", "-c", '"$@"; exit $?', "sh") as process:
        assert process.does(READ)


def test_slow_reading_adds_up(tmp_path: Path):
    with reader(tmp_path) as process:
        assert [process.does("file.read(600 * 1024)") for _ in range(4)] == [False, True, False, True]


def test_a_process_that_has_ended_shows_none():
    with subprocess.Popen(["true"]) as process:
        process.wait()
    reading = LoadReading(process.pid, 100 * MIB)
    assert (reading.has_read(), reading.progress) == (False, 0.0)


def test_reading_is_half_of_the_load_where_the_engine_reports_the_other_half():
    assert [progress_of(None, 0.4), progress_of(0.0, 0.4), progress_of(0.5, 0.95)] == [0.4, 0.2, 0.725]


def test_of_a_small_model_only_the_engine_reports_progress():
    reading = LoadReading(1, 10 * MIB)
    assert reading.progress is None


def test_all_files_of_a_model_are_to_be_read(tmp_path: Path):
    for name, size in (("draft", 100), ("lora", 10)):
        (tmp_path / name).write_bytes(b"x" * size)
    args = ("--model-draft", f"{tmp_path}/draft", "--lora", f"{tmp_path}/lora", "--lora", f"{tmp_path}/missing")
    model = replace(a_model(), size_bytes=1000, launch=a_launch(args=args))
    assert bytes_to_read(model) == 1110
