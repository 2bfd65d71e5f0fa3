"""Bodies of answers in each framing, in any pieces, and what is no framing at all."""

from __future__ import annotations

import random

import pytest

from workers.relay.body import MAX_LINE_BYTES, MAX_TRAILER_BYTES, BadFraming, Chunked, Counted, UntilClosed


def chunked(*parts: bytes, extension: bytes = b"", trailers: bytes = b"") -> bytes:
    chunks = (b"%x%s\r\n%s\r\n" % (len(part), extension, part) for part in parts)
    return b"".join(chunks) + b"0\r\n" + trailers + b"\r\n"


def test_chunks_in_any_pieces_give_the_same_bytes(seed: int):
    chance = random.Random(seed)
    for _ in range(2000):
        parts = [chance.randbytes(chance.randint(1, 60)) for _ in range(chance.randint(0, 5))]
        data = chunked(
            *parts, extension=chance.choice([b"", b";a=b", b" ;q"]), trailers=chance.choice([b"", b"A: b\r\n"])
        )
        body, payload = Chunked(), b""
        while data:
            size = chance.choice([1, 2, 3, 10, 1000])
            piece, data = data[:size], data[size:]
            payload += body.payload(piece)
        assert payload == b"".join(parts)
        assert body.is_over


@pytest.mark.parametrize(
    "data",
    [
        *(b"z\r\n", b"-1\r\n", b"+5\r\nhello\r\n", b"0x5\r\nhello\r\n", b" 5\r\nhello\r\n", b"\r\n", b"5_0\r\n"),
        *(b"5\nhello\n", b"5\r\nhelloX\r\n", b"5\r\nhello\rX", b"f" * 16 + b"\r\n", b"5\r\nhello\r\n0\r\n\r\nmore"),
        *(
            b"5" * (MAX_LINE_BYTES + 1),
            b"5;" + b"x" * MAX_LINE_BYTES,
            b"0\r\n" + b"A: b\r\n" * (MAX_TRAILER_BYTES // 6 + 1),
        ),
        b"0\r\nA: b\n\r\n",
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_what_is_no_chunked_body_is_refused(data: bytes, whole: bool):
    body = Chunked()
    with pytest.raises(BadFraming):
        for piece in [data] if whole else [data[i : i + 1] for i in range(len(data))]:
            body.payload(piece)


def test_a_chunked_body_is_whole_only_with_its_last_chunk():
    body = Chunked()
    body.payload(b"5\r\nhello\r\n")
    assert not body.ends_with_connection()
    body.payload(b"0\r\n\r\n")
    assert body.ends_with_connection()


def test_a_counted_body_has_just_its_bytes():
    body = Counted(5)
    assert (body.payload(b"hel"), body.is_over, body.ends_with_connection()) == (b"hel", False, False)
    assert (body.payload(b"lo"), body.is_over) == (b"lo", True)
    assert Counted(0).is_over
    with pytest.raises(BadFraming):
        Counted(3).payload(b"hello")


def test_a_body_without_framing_ends_with_the_connection():
    body = UntilClosed()
    assert (body.payload(b"x"), body.is_over) == (b"x", False)
    assert body.ends_with_connection() and body.is_over
