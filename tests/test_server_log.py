"""What is kept of a llama-server's log, and what of it explains an end."""

from __future__ import annotations

import json

from workers.server_log import LAST_WORDS_BYTES, RING_BYTES, ServerLog, last_words


def a_log(text: str) -> ServerLog:
    log = ServerLog()
    log.feed(text.encode())
    return log


def test_lines_cut_between_two_reads_are_whole_again():
    log = ServerLog()
    for piece in (b"first li", b"ne\nsecond", b" line\nunfinished"):
        log.feed(piece)
    assert log.lines() == ["first line", "second line", "unfinished"]


def test_a_flood_is_bounded_and_the_newest_is_kept():
    log = ServerLog()
    for number in range(50_000):
        log.feed(b"line %d with some text behind it\n" % number)
    assert sum(map(len, log.lines())) <= RING_BYTES
    assert log.lines()[-1].startswith("line 49999 ")


def test_one_endless_line_takes_no_memory():
    log = ServerLog()
    for _ in range(1000):
        log.feed(b"x" * 65536)
    assert sum(map(len, log.lines())) <= 4096


def test_last_words_are_the_lines_that_tell_something():
    lines = [
        "0.00.010.000 I build: 11549",
        "0.00.020.000 E llama_model_load: error loading model: unknown model architecture: 'nope'",
        "0.00.021.000 E common_init: failed to load model '/models/x.gguf'",
        "0.00.022.000 I srv  cleaning up",
    ]
    assert last_words(lines) == (
        "llama_model_load: error loading model: unknown model architecture: 'nope'\n"
        "common_init: failed to load model '/models/x.gguf'"
    )


def test_without_telling_lines_the_last_ones_are_the_last_words():
    assert last_words(["one", "two"]) == "one\ntwo"
    assert last_words(["one", 'cmd_child_to_router:state:{"state":"loading"}', "two"]) == "one\ntwo"


def test_last_words_are_bounded():
    assert len(last_words(["error " + "é" * 5000] * 20).encode()) <= LAST_WORDS_BYTES


def test_json_lines_are_unpacked():
    record = {"type": "log", "level": "ERROR", "msg": "cannot open the file\n"}
    assert a_log(json.dumps(record) + "\n").lines() == ["E cannot open the file"]
    assert a_log('{"not": "a log line"}\n').lines() == ['{"not": "a log line"}']
