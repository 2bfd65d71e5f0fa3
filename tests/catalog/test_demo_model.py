"""The demo model: small, fast to write, written once."""

import os
import time

import pytest

from workers.catalog.demo_model import write_demo_model


@pytest.fixture
def demo(tmp_path):
    return write_demo_model(tmp_path / "cache" / "models")


def test_the_file_is_named_demo_and_small(demo):
    assert demo.name == "demo.gguf"
    assert demo.read_bytes()[:4] == b"GGUF"
    assert demo.stat().st_size < 2_000_000


def test_no_temporary_file_is_left(demo):
    assert os.listdir(demo.parent) == ["demo.gguf"]


def test_other_users_can_read_the_file(demo):
    """mkstemp creates files that only their owner can read."""
    assert demo.stat().st_mode & 0o777 == 0o644


def test_a_current_file_is_not_replaced(demo):
    before = demo.stat()
    assert write_demo_model(demo.parent) == demo
    assert (demo.stat().st_ino, demo.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("content", [b"", b"GGUF of another version"])
def test_a_file_of_another_version_is_replaced(demo, content):
    current = demo.read_bytes()
    demo.write_bytes(content)
    write_demo_model(demo.parent)
    assert demo.read_bytes() == current


def test_writing_is_fast(tmp_path):
    import gguf  # noqa: F401  so that the import is not measured

    began = time.monotonic()
    write_demo_model(tmp_path)
    assert time.monotonic() - began < 2.0  # 50 to 100 ms
