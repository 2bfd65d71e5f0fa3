"""What of a file is in the page cache, and where the file is: asked of the kernel about real files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from workers.model_files.file_systems import FileSystem, file_system_of
from workers.model_files.page_cache import cached_share, counted_bytes, sampled_bytes
from workers.model_files.parts import parts_of

MIB = 1024**2
SIZE = 320 * MIB  # more than is looked at page by page


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """On the disk, and not in the page cache."""
    path = tmp_path / "model.gguf"
    with open(path, "wb") as writing:
        for _ in range(SIZE // MIB):
            writing.write(os.urandom(16) * (MIB // 16))
        writing.flush()
        os.fsync(writing.fileno())
    drop(path)
    return path


def drop(path: Path) -> None:
    with open(path, "rb") as reading:
        os.posix_fadvise(reading.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_some(path: Path, size: int) -> None:
    with open(path, "rb") as reading:
        os.posix_fadvise(reading.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # no more than is read
        while size > 0:
            size -= len(reading.read(min(size, MIB)))


def shares(path: Path) -> list[float]:
    with open(path, "rb") as reading:
        counted = counted_bytes(reading.fileno())
        by_sample = sampled_bytes(reading.fileno())
    return [each / SIZE for each in ([] if counted is None else [counted]) + [by_sample]]


def test_what_was_read_is_counted_in_either_way(file: Path):
    for share in shares(file):
        assert share < 0.05
    read_some(file, SIZE // 2)
    for share in shares(file):
        assert 0.45 < share < 0.6
    read_some(file, SIZE)
    assert cached_share([str(file)]) == pytest.approx(1.0, abs=0.01)


def test_several_files_count_together(file: Path, tmp_path: Path):
    small = tmp_path / "small"
    small.write_bytes(bytes(4096))
    assert cached_share([str(file), str(small)]) == pytest.approx(0.0, abs=0.05)


def test_a_file_that_is_gone_or_empty_is_unknown(tmp_path: Path):
    empty = tmp_path / "empty"
    empty.touch()
    assert cached_share([str(tmp_path / "gone")]) is None
    assert cached_share([str(empty)]) is None


def test_all_parts_of_a_split_model_are_its_files():
    assert list(parts_of("/m/a-00001-of-00003.gguf")) == [f"/m/a-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    assert list(parts_of("/m/a.gguf")) == ["/m/a.gguf"]


def test_a_file_system_is_known_by_its_longest_mount(tmp_path: Path):
    path = tmp_path / "m o" / "model.gguf"
    path.parent.mkdir()
    path.touch()
    device = os.stat(path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts = tmp_path / "mountinfo"
    blank = str(path.parent).replace(" ", r"\040")
    mounts.write_text(
        f"21 1 {number} / / rw,relatime shared:1 - ext4 /dev/a rw\n"
        f"22 1 {number} /x {blank} rw - xfs /dev/a rw\n"
        f"23 1 0:999 / {tmp_path} rw - tmpfs tmpfs rw\n"
    )
    assert file_system_of(str(path), mounts) == FileSystem("xfs", str(path.parent))
    assert file_system_of(str(tmp_path), mounts).name == "ext4 /"
    assert file_system_of(str(tmp_path / "gone"), mounts) == FileSystem()


def test_this_machine_tells_its_own(tmp_path: Path):
    assert file_system_of("/proc/self/status").type == "proc"
    assert file_system_of(str(tmp_path)).type
