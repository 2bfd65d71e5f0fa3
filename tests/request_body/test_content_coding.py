"""Bodies that their client has compressed."""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import os
import random
import sys
import zlib
from collections.abc import Callable

import pytest

from app.errors import InvalidRequest, UnsupportedEncoding
from app.request_body.content_coding import content_codings, decoded

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MIB = 1024**2
TEXT = b'{"model": "m", "prompt": "' + "Füße ".encode() * 1000 + os.urandom(3000).hex().encode() + b'"}'


def raw_deflate(data: bytes) -> bytes:
    encoder = zlib.compressobj(wbits=-15)
    return encoder.compress(data) + encoder.flush()


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "raw deflate": raw_deflate,
    "zstd": zstd.compress,
}


def decode(data: bytes, *codings: str, size: int = 256 * 1024) -> bytes:
    read = io.BytesIO(data).read
    for coding in reversed(codings):
        read = decoded(read, coding)
    return b"".join(iter(lambda: read(size), b""))


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("size", [1, 7, 1000, len(TEXT), len(TEXT) + 1, MIB])
def test_every_reader_gets_the_whole_body_in_pieces_as_long_as_it_asks_for(name: str, size: int):
    read = decoded(io.BytesIO(ENCODERS[name](TEXT)).read, name.split()[-1])
    pieces = list(iter(lambda: read(size), b""))
    assert b"".join(pieces) == TEXT
    assert {len(piece) for piece in pieces[:-1]} <= {size}


@pytest.mark.parametrize("name", ENCODERS)
def test_a_body_may_arrive_byte_by_byte(name: str):
    encoded = iter(ENCODERS[name](TEXT[:500]))
    read = decoded(lambda size: bytes(itertools.islice(encoded, 1)), name.split()[-1])
    assert read(10_000) == TEXT[:500]


@pytest.mark.parametrize("name", ENCODERS)
def test_an_empty_body_is_empty_encoded_or_not(name: str):
    assert decode(ENCODERS[name](b""), name.split()[-1]) == decode(b"", name.split()[-1]) == b""


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_members_follow_one_another(name: str):
    assert decode(ENCODERS[name](b"one") + ENCODERS[name](b"") + ENCODERS[name](b"two"), name) == b"onetwo"


@pytest.mark.parametrize("name", ["deflate", "raw deflate"])
def test_nothing_follows_deflate(name: str):
    with pytest.raises(InvalidRequest, match="deflate: there is data after its end"):
        decode(ENCODERS[name](b"one") + b"more", "deflate")


def test_two_codings_are_decoded_in_reverse():
    assert decode(zstd.compress(gzip.compress(TEXT)), "gzip", "zstd") == TEXT


@pytest.mark.parametrize("name", ENCODERS)
def test_a_body_that_is_cut_or_damaged_is_rejected(name: str):
    encoded, coding = ENCODERS[name](TEXT), name.split()[-1]
    for cut in (1, 2, len(encoded) // 2, len(encoded) - 1):
        with pytest.raises(InvalidRequest, match=f"cannot be decoded as {coding}: "):
            decode(encoded[:cut], coding)
    with pytest.raises(InvalidRequest, match=f"cannot be decoded as {coding}: "):
        decode(b"\x01\x02" + encoded, coding)
    with pytest.raises(InvalidRequest, match=f"cannot be decoded as {coding}: "):
        decode(b'{"model": "demo"}', coding)


@pytest.mark.parametrize("name", ENCODERS)
def test_random_damage_is_rejected_or_decodes_to_something(name: str):
    rng, encoded = random.Random(name), ENCODERS[name](TEXT)
    for _ in range(200):
        damaged = bytearray(encoded)
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        with contextlib.suppress(InvalidRequest):
            decode(bytes(damaged), name.split()[-1])


def test_a_bomb_is_decoded_no_further_than_it_is_read():
    """10 MiB of zeros; 1 MiB is asked for."""
    for name, encode in ENCODERS.items():
        source = io.BytesIO(encode(bytes(10 * MIB)))
        assert len(decoded(source.read, name.split()[-1])(MIB)) == MIB


def test_empty_members_without_end_are_rejected():
    member = gzip.compress(b"")
    with pytest.raises(InvalidRequest, match="data after its end"):
        decoded(lambda size: member * (size // len(member)), "gzip")(1)


def test_a_window_that_takes_more_memory_than_http_permits_is_rejected():
    parameters = {zstd.CompressionParameter.window_log: 27}
    encoder = zstd.ZstdCompressor(options=parameters)
    with pytest.raises(InvalidRequest, match="cannot be decoded as zstd"):
        decode(encoder.compress(os.urandom(10 * MIB)) + encoder.flush(), "zstd")


@pytest.mark.parametrize(
    ("header", "codings"),
    [
        ("gzip", ("gzip",)), ("x-gzip", ("gzip",)), (" GZip ", ("gzip",)), ("identity", ()), ("", ()),
        ("deflate, zstd", ("deflate", "zstd")), ("gzip,identity", ("gzip",)),
    ],
)  # fmt: skip
def test_a_header_names_up_to_two_codings(header: str, codings: tuple[str, ...]):
    assert content_codings(header) == codings


@pytest.mark.parametrize("header", ["br", "gzip, br", "gzip, gzip, gzip", "compress", "gzip;q=1"])
def test_other_codings_are_answered_with_those_that_are_understood(header: str):
    with pytest.raises(UnsupportedEncoding) as raised:
        content_codings(header)
    assert raised.value.headers["Accept-Encoding"] == "gzip, deflate, zstd"
