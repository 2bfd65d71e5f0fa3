"""The line of each request: in the form of all others, and never a reason for a request to fail."""

from __future__ import annotations

import io
import re
import time

from tests.helpers.service import wait_for
from workers.telemetry.access_log import AccessLog


def a_line(log: AccessLog, status: int = 200, asked: str = "m") -> None:
    log.note(status, "/v1/completions", "m", asked, 0.25, 7, 3, "r1")


def test_a_line_has_the_form_of_all_others_and_its_own_time():
    file = io.StringIO()
    log = AccessLog(lambda: file)
    a_line(log)
    time.sleep(1.1)
    log.flush()
    said = re.fullmatch(
        r"(\S+ \S+),(\d{3}) INFO \[access-log\] workers.telemetry.access_log: request (.*)\n", file.getvalue()
    )
    assert said, file.getvalue()
    assert said[3] == "status=200 path=/v1/completions model=m asked='m' seconds=0.250 prompt=7 completion=3 id=r1"
    at = time.mktime(time.strptime(said[1], "%Y-%m-%d %H:%M:%S")) + int(said[2]) / 1000
    assert time.time() - at >= 1.0, "the request's end, not the line's"


def test_a_clients_words_make_no_second_line_and_no_long_one():
    file = io.StringIO()
    log = AccessLog(lambda: file)
    a_line(log, asked="a\nb" + "x" * 1000)
    log.flush()
    assert file.getvalue().count("\n") == 1
    assert len(file.getvalue()) < 400


def test_lines_are_written_by_themselves():
    file = io.StringIO()
    log = AccessLog(lambda: file)
    log.start()
    for status in (200, 404):
        a_line(log, status)
        wait_for(lambda status=status: f"status={status}" in file.getvalue(), 10)


class Full(io.StringIO):
    """A disk without room."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_a_log_that_takes_nothing_costs_its_lines_alone():
    files: list[io.StringIO] = [Full()]
    log = AccessLog(lambda: files[-1])
    a_line(log)
    log.flush()
    files.append(io.StringIO())
    a_line(log, 404)
    log.flush()
    assert re.findall("status=(\\d+)", files[-1].getvalue()) == ["404"]
