"""The access log: its lines have the format of the log, and a write error fails no request."""

from __future__ import annotations

import io
import re
import threading
import time

import pytest

from tests.helpers.service import wait_for
from workers.telemetry import access_log
from workers.telemetry.access_log import AccessLog


def a_line(log: AccessLog, status: int = 200, asked: str = "m") -> None:
    log.note(status, "/v1/completions", "m", asked, 0.25, 7, 3, "r1")


def write_queued(log: AccessLog) -> None:
    log.start()
    log.close()


def test_a_line_has_the_log_format_and_the_time_of_the_requests_end():
    file = io.StringIO()
    log = AccessLog(file=file)
    a_line(log)
    time.sleep(1.1)
    write_queued(log)
    line = re.fullmatch(
        r"(\S+ \S+),(\d{3}) INFO \[access-log\] workers.telemetry.access_log: request (.*)\n", file.getvalue()
    )
    assert line, file.getvalue()
    assert line[3] == "status=200 path=/v1/completions model=m asked='m' seconds=0.250 prompt=7 completion=3 id=r1"
    at = time.mktime(time.strptime(line[1], "%Y-%m-%d %H:%M:%S")) + int(line[2]) / 1000
    assert time.time() - at >= 1.0, "the request's end, not the time of writing"


def test_a_clients_model_name_is_escaped_and_truncated():
    file = io.StringIO()
    log = AccessLog(file=file)
    a_line(log, asked="a\nb" + "x" * 1000)
    write_queued(log)
    assert file.getvalue().count("\n") == 1
    assert len(file.getvalue()) < 400


def test_lines_are_written_without_a_flush():
    file = io.StringIO()
    log = AccessLog(file=file)
    log.start()
    for status in (200, 404):
        a_line(log, status)
        wait_for(lambda status=status: f"status={status}" in file.getvalue(), 10)


class FullDisk(io.StringIO):
    """A file on a disk that is full until `has_space`."""

    has_space, refusals = False, 0

    def write(self, text: str) -> int:
        if not self.has_space:
            self.refusals += 1
            raise OSError(28, "No space left on device")
        return super().write(text)


def test_lines_are_written_again_after_a_write_error():
    file = FullDisk()
    log = AccessLog(file=file)
    a_line(log)
    log.start()
    wait_for(lambda: file.refusals, 10)
    file.has_space = True
    a_line(log, 404)
    log.close()
    assert re.findall("status=(\\d+)", file.getvalue()) == ["404"]


class Blocked(io.StringIO):
    """A pipe whose reader has stopped reading."""

    def __init__(self) -> None:
        super().__init__()
        self.is_free = threading.Event()

    def write(self, text: str) -> int:
        assert self.is_free.wait(60)
        return super().write(text)


def test_a_blocked_file_neither_blocks_requests_nor_fills_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(access_log, "MAX_QUEUED", 10)
    file = Blocked()
    log = AccessLog(file=file)
    log.start()
    began = time.monotonic()
    for _ in range(100):
        a_line(log)
    assert time.monotonic() - began < 5
    file.is_free.set()
    log.close()
    assert 10 <= file.getvalue().count("\n") <= 12  # one more is being written
