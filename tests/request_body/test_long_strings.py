"""Long strings are cut before a body is decoded, and nothing is accepted or rejected because of it."""

from __future__ import annotations

import json
import random

import pytest

from app.errors import InvalidRequest
from app.request_body.content import BodyContent, BodyFormat, read_content
from app.request_body.long_strings import LONG_BYTES, shortened


def test_a_long_string_is_cut_and_its_neighbours_are_not():
    body = json.dumps({"a": 'x"\\', "image": "y" * (2 * LONG_BYTES), "model": "demo"}).encode()
    assert json.loads(shortened(body)) == {"a": 'x"\\', "image": "y" * LONG_BYTES, "model": "demo"}


@pytest.mark.parametrize("unit", ["x", "é", "€", "😀", "\\n", "\\u20ac", "\\ud83d\\ude00", '\\"', "\\\\"])
@pytest.mark.parametrize("offset", range(7))
def test_a_string_is_cut_between_characters(unit: str, offset: int, monkeypatch):
    """Half of a surrogate pair, which is a character of its own in JSON, may be the last one."""
    monkeypatch.setattr("app.request_body.long_strings.LONG_BYTES", 64)
    content = "x" * offset + unit * 64
    text = f'{{"a": "{content}", "b": 1}}'.encode()
    cut = json.loads(shortened(text).decode())
    assert cut["b"] == 1
    assert json.loads(text)["a"].startswith(cut["a"][:-1])
    assert 64 - 12 < len(shortened(text)) - len(text) + len(content.encode()) <= 64


@pytest.mark.parametrize(
    "bad",
    [b"\n", b"\x00", b"\\x", b"\\u12", b"\\u12g4", b"\xff", b"\xc3", b"\xe2\x82", b"\xed\xa0\x80", b"\\"],
)
@pytest.mark.parametrize("place", [0, 63, 64, 128])
def test_a_long_string_that_is_not_json_is_rejected(bad: bytes, place: int, monkeypatch):
    monkeypatch.setattr("app.request_body.long_strings.LONG_BYTES", 64)
    text = b"x" * place + bad + b"x" * (128 - place)
    for body in (b'{"model": "demo", "a": "' + text + b'"}', b'{"model": "demo", "a": "' + text):
        with pytest.raises(InvalidRequest, match="the body is not JSON"):
            read_content(body, BodyFormat())


def test_a_text_without_an_end_takes_linear_time():
    for text in (b'{"a": "' + b'\\"' * 1_000_000, b'{"a": ' + b'"\\' * 1_000_001, b'"' + b"\\" * 1_000_001):
        with pytest.raises(InvalidRequest):
            read_content(text, BodyFormat())


@pytest.mark.seeds(3)
def test_what_is_accepted_is_the_same_with_and_without_cuts(seed: int, monkeypatch):
    """Random bytes of JSON's alphabet, with a limit of 2 bytes in place of LONG_BYTES: same acceptance, same names."""
    monkeypatch.setattr("app.request_body.long_strings.LONG_BYTES", 2)
    rng = random.Random(seed)
    pieces = [
        b'"',
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b",",
        b"1",
        b"a",
        b"\xc3\xa9",
        b"\xc3",
        b"\\u00",
        b"\n",
        b'"model":',
    ]
    for _ in range(3000):
        text = b"".join(rng.choices(pieces, k=rng.randrange(1, 12)))
        text = b'{"k":[' + text + b'],"model":"demo"}' if rng.random() < 0.5 else b'{"model":"' + text + b'"}'
        assert _accepts(shortened(text)) == _accepts(text), text


def _accepts(text: bytes) -> bool:
    try:
        json.loads(text.decode())
    except ValueError:
        return False
    return True


def test_commas_in_a_long_text_are_not_values():
    body = json.dumps({"model": "demo", "prompt": "," * 2_000_000}).encode()
    assert read_content(body, BodyFormat()) == BodyContent(("demo",))
