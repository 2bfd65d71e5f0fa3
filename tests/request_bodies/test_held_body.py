"""Bodies: what they take of the budget, where they are kept, and what is read of them elsewhere."""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import json
import os
import pickle
import threading
import time
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from app.errors import Draining, InvalidRequest, Overloaded, RequestTooLarge
from app.ports import BodyFile
from app.request_body.buffer import Buffer
from app.request_body.content import BodyContent, BodyFormat
from tests.helpers.service import wait_for
from workers.request_bodies.held_body import INLINE_VALUES, PIECE_BYTES, HeldBody, RequestBodies
from workers.request_bodies.reader_process import _answer

MIB = 1024**2
FORM = BodyFormat("multipart/form-data", "b")


def received(bodies: RequestBodies, data: bytes, announced: bool = True, client: str = "x") -> HeldBody:
    return bodies.receive(io.BytesIO(data).read, len(data) if announced else 0, client)


def content_of(held: HeldBody) -> bytes:
    data = held.data
    return os.pread(data.fd, data.size_bytes + 1, 0) if isinstance(data, BodyFile) else data


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 5 * PIECE_BYTES, 2 * MIB])
def test_a_body_takes_its_size_until_it_is_closed(size: int, announced: bool):
    bodies, data = RequestBodies(2 * MIB, 4 * MIB), os.urandom(size)
    held = received(bodies, data, announced)
    assert (content_of(held), len(held), bodies.budget.taken_bytes) == (data, size, size)
    held.close()
    held.close()
    assert bodies.budget.taken_bytes == 0


@pytest.mark.parametrize("size", [0, 1, 1000, PIECE_BYTES, MIB])
def test_a_compressed_body_counts_decoded(size: int):
    bodies, data = RequestBodies(2 * MIB, 4 * MIB), os.urandom(size)
    encoded = gzip.compress(data)
    held = bodies.receive(io.BytesIO(encoded).read, len(encoded), "x", ("gzip",))
    assert (content_of(held), len(held), bodies.budget.taken_bytes) == (data, size, size)
    held.close()
    assert bodies.budget.taken_bytes == 0


def test_a_bomb_is_cut_at_the_limit_of_a_body():
    bodies, encoded = RequestBodies(MIB, 2 * MIB), gzip.compress(bytes(20 * MIB))
    began, source = time.process_time(), io.BytesIO(encoded)
    with pytest.raises(RequestTooLarge):
        bodies.receive(source.read, len(encoded), "x", ("gzip",))
    assert bodies.budget.taken_bytes == 0
    assert time.process_time() - began < 1.0, "20 MiB take 0.05 s"


def test_a_body_that_decodes_to_nothing_for_ever_is_cut_at_the_limit():
    bodies = RequestBodies(MIB, 2 * MIB)
    empty = zlib.compressobj(0).compress(b"") or zlib.compress(b"", 0)[:2]
    empty_block = b"\x00\x00\x00\xff\xff"  # of deflate: stored, no bytes, not the last
    pieces = itertools.chain([empty], itertools.repeat(empty_block * 1000))
    with pytest.raises(RequestTooLarge):
        bodies.receive(lambda size: next(pieces), 0, "x", ("deflate",))
    assert bodies.budget.taken_bytes == 0


def test_what_lies_between_two_codings_has_the_limit_too():
    """600 KiB that decoded to 400 MiB of empty blocks took 2 s, the largest body a quarter of an hour."""
    empty_blocks = zlib.compress(b"", 0)[:2] + b"\x00\x00\x00\xff\xff" * (2 * MIB)
    bodies, encoded = RequestBodies(MIB, 2 * MIB), gzip.compress(empty_blocks)
    assert len(encoded) < MIB / 10
    with pytest.raises(RequestTooLarge):
        bodies.receive(io.BytesIO(encoded).read, len(encoded), "x", ("deflate", "gzip"))
    assert bodies.budget.taken_bytes == 0


def test_a_body_that_is_too_large_compressed_is_not_read():
    bodies, source = RequestBodies(MIB, MIB), io.BytesIO(b"x")
    with pytest.raises(RequestTooLarge):
        bodies.receive(source.read, MIB + 1, "y", ("gzip",))
    assert source.tell() == 0


@pytest.mark.parametrize("size", [0, 5, PIECE_BYTES - 3, PIECE_BYTES, MIB])
@pytest.mark.parametrize("announced", [True, False])
def test_a_byte_order_mark_is_dropped(size: int, announced: bool):
    bodies, data = RequestBodies(2 * MIB, 4 * MIB), b"x" * size
    held = received(bodies, BOM_UTF8 + data, announced)
    assert (content_of(held), len(held), bodies.budget.taken_bytes) == (data, size, size)
    held.close()


def test_a_body_that_is_too_large_is_not_read():
    bodies, source = RequestBodies(MIB, MIB), io.BytesIO(b"x" * (MIB + 1))
    with pytest.raises(RequestTooLarge):
        bodies.receive(source.read, MIB + 1, "y")
    assert (source.tell(), bodies.budget.taken_bytes) == (0, 0)


def test_chunks_are_read_only_until_they_are_too_much():
    bodies, source = RequestBodies(MIB, 2 * MIB), io.BytesIO(b"x" * 10 * MIB)
    with pytest.raises(RequestTooLarge):
        bodies.receive(source.read, 0, "y")
    assert source.tell() <= MIB + PIECE_BYTES
    assert bodies.budget.taken_bytes == 0


def test_bodies_beyond_the_budget_are_turned_away_before_they_are_read():
    bodies, source = RequestBodies(2 * MIB, 3 * MIB), io.BytesIO(b"x" * 2 * MIB)
    with_room = received(bodies, b"x" * 2 * MIB)
    with pytest.raises(Overloaded) as raised:
        bodies.receive(source.read, 2 * MIB, "y")
    assert (source.tell(), raised.value.headers["Retry-After"]) == (0, "1")
    with_room.close()
    received(bodies, b"x" * 2 * MIB).close()


def test_chunks_are_turned_away_when_they_outgrow_the_budget():
    bodies = RequestBodies(2 * MIB, 3 * MIB)
    other = received(bodies, b"x" * 2 * MIB)
    with pytest.raises(Overloaded):
        received(bodies, b"x" * 2 * MIB, announced=False)
    assert bodies.budget.taken_bytes == len(other)


def test_small_bodies_are_read_while_large_ones_fill_the_budget():
    bodies = RequestBodies(MIB, MIB)
    large = received(bodies, b"x" * MIB)
    for announced in (True, False):
        received(bodies, b"x" * 1000, announced=announced).close()
    with pytest.raises(Overloaded):
        received(bodies, b"x" * (PIECE_BYTES + 1))
    large.close()
    assert bodies.budget.taken_bytes == 0


def test_one_client_leaves_half_of_the_budget_to_others():
    """Four announcements of 256 MiB, each sent as slowly as is allowed, kept every other large body out."""
    bodies = RequestBodies(MIB, 4 * MIB)
    held = [received(bodies, b"x" * MIB, client="slow") for _ in range(2)]
    for announced in (True, False):
        with pytest.raises(Overloaded, match="share, 2097152 of 4194304 bytes"):
            received(bodies, b"x" * MIB, announced, client="slow")
    received(bodies, b"x" * 1000, client="slow").close()
    held += [received(bodies, b"x" * MIB, client=f"other {i}") for i in range(2)]
    with pytest.raises(Overloaded, match="other requests"):
        received(bodies, b"x" * MIB, client="a third")
    held.pop(0).close()
    received(bodies, b"x" * MIB, client="slow").close()
    for each in held:
        each.close()
    assert bodies.budget.taken_bytes == 0


def test_one_body_of_the_largest_size_always_fits():
    for announced in (True, False):
        received(RequestBodies(2 * MIB, 1), b"x" * 2 * MIB, announced).close()
    received(RequestBodies(1000, 1000), b"", announced=False).close()


def test_chunks_beyond_the_largest_size_are_too_large_even_if_all_bodies_may_have_no_more():
    bodies = RequestBodies(MIB, MIB)
    with pytest.raises(RequestTooLarge):
        received(bodies, b"x" * 2 * MIB, announced=False)
    assert bodies.budget.taken_bytes == 0


def test_a_body_that_ends_early_leaves_nothing(tmp_path: Path):
    def read(size: int) -> bytes:
        raise ConnectionResetError

    bodies, before = RequestBodies(MIB, MIB), len(os.listdir("/proc/self/fd"))
    with pytest.raises(ConnectionResetError):
        bodies.receive(read, MIB, "y")
    assert (bodies.budget.taken_bytes, len(os.listdir("/proc/self/fd"))) == (0, before)


@pytest.fixture(scope="module")
def bodies() -> Iterator[RequestBodies]:
    with contextlib.closing(RequestBodies(8 * MIB, 64 * MIB)) as made:
        yield made


@pytest.mark.integration
def test_another_process_reads_the_same(bodies: RequestBodies):
    body = json.dumps({"model": "demo", "stream": True, "num_ctx": 4096, "a": "x" * 3 * MIB}).encode()
    held = received(bodies, body)
    assert isinstance(held.data, BodyFile)
    assert held.content(BodyFormat()) == BodyContent(("demo",), streams=True, num_ctx=4096)


@pytest.mark.integration
def test_many_values_are_read_elsewhere(bodies: RequestBodies):
    body = json.dumps({"model": "demo", "a": [0] * INLINE_VALUES}).encode()
    assert len(body) < PIECE_BYTES
    held = received(bodies, body)
    assert held.content(BodyFormat()).names == ("demo",)
    assert isinstance(held.data, BodyFile), "which the other process has read"


def reversed_body(body: Buffer) -> tuple[bytes, int]:
    return body[:][::-1], os.getpid()


def doubled(body: Buffer) -> tuple[bytes, None]:
    return 2 * body[:], None


def rejected(body: Buffer) -> tuple[bytes, None]:
    raise InvalidRequest("no", "x")


@pytest.mark.parametrize(("size", "is_large"), [(0, False), (1000, False), (3 * MIB, True)])
@pytest.mark.integration
def test_a_body_is_rewritten_where_it_would_be_read(bodies: RequestBodies, size: int, is_large: bool):
    others, held = bodies.budget.taken_bytes, received(bodies, os.urandom(size))
    data = content_of(held)
    assert (held.rewrite(reversed_body) != os.getpid()) == is_large
    assert (content_of(held), bodies.budget.taken_bytes) == (data[::-1], others + size)
    held.close()
    assert bodies.budget.taken_bytes == others


def test_what_a_process_had_written_when_it_ended_is_no_part_of_the_body():
    body, target = (os.memfd_create(name) for name in ("body", "target"))
    os.write(body, b"ab")
    os.write(target, b"a beginning")
    _answer(pickle.dumps((2, doubled)), [body, os.dup(target)])
    assert os.pread(target, 100, 0) == b"abab"
    os.close(target)


@pytest.mark.integration
def test_a_rewritten_body_takes_its_new_size_of_the_budget():
    bodies = RequestBodies(2 * MIB, 3 * MIB)
    held = received(bodies, b"x" * MIB)
    held.rewrite(doubled)
    assert (len(held), bodies.budget.taken_bytes) == (2 * MIB, 2 * MIB)
    with pytest.raises(Overloaded):
        held.rewrite(doubled)
    held.close()
    bodies.close()
    assert bodies.budget.taken_bytes == 0


@pytest.mark.parametrize("size", [1000, 3 * MIB])
@pytest.mark.integration
def test_a_body_that_cannot_be_rewritten_stays_as_it_is(bodies: RequestBodies, size: int):
    others, held = bodies.budget.taken_bytes, received(bodies, b"x" * size)
    with pytest.raises(InvalidRequest) as raised:
        held.rewrite(rejected)
    assert (raised.value.param, len(held), bodies.budget.taken_bytes) == ("x", size, others + size)
    held.close()


@pytest.mark.integration
def test_errors_of_the_other_process_are_raised_here(bodies: RequestBodies):
    with pytest.raises(InvalidRequest, match='more than one "model"') as raised:
        received(bodies, b'{"model": "a", "model": "b", "x": "' + b"x" * MIB + b'"}').content(BodyFormat())
    assert raised.value.param == "model"


@pytest.mark.integration
def test_what_a_large_body_says_is_small_however_long_its_names_are(bodies: RequestBodies):
    padded = received(bodies, b'{"model": "%s"}' % (b" " * 400_000 + b"demo"))
    assert padded.content(BodyFormat()).names == ("demo",)
    nested = received(bodies, b'{"%s": {"type": "image", "url": "http://x"}}' % (b"k" * 400_000))
    with pytest.raises(InvalidRequest) as raised:
        nested.content(BodyFormat())
    assert len(str(raised.value)) < 2000


@pytest.mark.integration
def test_a_large_form_is_read_elsewhere(bodies: RequestBodies):
    head = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n'
    body = head % b'file"; filename="x' + b"\0" * 2 * MIB + b"\r\n" + head % b"model" + b"demo\r\n--b--\r\n"
    assert received(bodies, body).content(FORM).names == ("demo",)


@pytest.mark.integration
def test_the_process_that_reads_is_started_anew_after_its_end(bodies: RequestBodies):
    body = b'{"model": "demo", "x": "' + b"x" * MIB + b'"}'
    held = received(bodies, body)
    assert held.content(BodyFormat()).names == ("demo",)
    (process,) = [each for each in psutil.Process().children() if each.name() == "body-reader"]
    process.kill()
    assert held.content(BodyFormat()).names == ("demo",)
    assert not process.is_running()


@pytest.mark.integration
def test_a_shutdown_does_not_wait_for_a_body_that_is_read():
    bodies = RequestBodies(64 * MIB, 64 * MIB)
    held = received(bodies, b'{"model": "demo", "x": [' + b'"\\n",' * 999_000 + b"1]}")
    raised: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(100):
                held.content(BodyFormat())
        except Draining as error:
            raised.append(error)

    reading = threading.Thread(target=read)
    reading.start()
    wait_for(lambda: bodies._reader._process, 20)
    bodies.close()
    reading.join(20)
    assert len(raised) == 1
    assert bodies._reader._process is None
