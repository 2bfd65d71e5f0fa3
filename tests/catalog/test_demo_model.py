"""The demo model: small, quick to make, made once."""

import os
import time

import pytest

from workers.catalog.demo_model import write_demo_model


@pytest.fixture
def demo(tmp_path):
    return write_demo_model(tmp_path / "cache" / "models")


def test_it_is_called_demo_and_is_small(demo):
    assert demo.name == "demo.gguf"
    assert demo.read_bytes()[:4] == b"GGUF"
    assert demo.stat().st_size < 2_000_000


def test_nothing_else_is_left_in_the_folder(demo):
    assert os.listdir(demo.parent) == ["demo.gguf"]


def test_others_may_read_it(demo):
    """The first version was made by mkstemp and readable by its owner alone."""
    assert demo.stat().st_mode & 0o777 == 0o644


def test_one_that_is_there_stays(demo):
    before = demo.stat()
    assert write_demo_model(demo.parent) == demo
    assert (demo.stat().st_ino, demo.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("content", [b"", b"GGUF of another version"])
def test_one_of_another_version_is_replaced(demo, content):
    right = demo.read_bytes()
    demo.write_bytes(content)
    write_demo_model(demo.parent)
    assert demo.read_bytes() == right


def test_it_takes_a_moment_only(tmp_path):
    import gguf  # noqa: F401  the import is not what is measured

    began = time.monotonic()
    write_demo_model(tmp_path)
    assert time.monotonic() - began < 2.0  # 50 to 100 ms
