"""Bodies of answers in each framing, in any pieces, and what is no framing at all."""

from __future__ import annotations

import random

import pytest

from workers.relay.framing import MAX_LINE_BYTES, MAX_TRAILER_BYTES, BadFraming, Chunked, Counted, UntilClosed


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
        raw, payload, as_raw, as_payload = Chunked(), Chunked(), b"", b""
        while data:
            size = chance.choice([1, 2, 3, 10, 1000])
            piece, data = data[:size], data[size:]
            as_raw += raw.raw(piece)
            as_payload += payload.payload(piece)
        assert as_payload == b"".join(parts)
        assert raw.is_over and payload.is_over
        assert as_raw == chunked(*parts)[: -len(b"0\r\n\r\n")], "extensions, trailers and the end are left out"


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
    for body in (Chunked().raw, Chunked().payload):
        with pytest.raises(BadFraming):
            for piece in [data] if whole else [data[i : i + 1] for i in range(len(data))]:
                body(piece)


def test_what_is_owed_of_a_chunk_is_what_went_on():
    """After a read that failed it was what had been read, and a client was sent the rest of a chunk it never got."""
    body = Chunked()
    assert body.raw(b"5\r\nhel") == b"5\r\nhel"
    with pytest.raises(BadFraming):
        body.raw(b"lo\r\n3\r\nabcXX")
    assert body.left == len(b"lo\r\n")


def test_a_chunked_body_is_whole_only_with_its_last_chunk():
    body = Chunked()
    body.raw(b"5\r\nhello\r\n")
    assert not body.closed()
    body.raw(b"0\r\n\r\n")
    assert body.closed()


def test_a_counted_body_has_just_its_bytes():
    body = Counted(5)
    assert (body.raw(b"hel"), body.is_over, body.closed()) == (b"hel", False, False)
    assert (body.raw(b"lo"), body.is_over) == (b"lo", True)
    assert Counted(0).is_over
    with pytest.raises(BadFraming):
        Counted(3).raw(b"hello")


def test_a_body_without_framing_ends_with_the_connection():
    body = UntilClosed()
    assert (body.raw(b"x"), body.is_over) == (b"x", False)
    assert body.closed() and body.is_over
