"""One file, downloaded in this process."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from app.errors import DownloadFailed
from tests.downloads.pulls import FILE, MIB, REPO, listed
from tests.helpers.hub_server import HubServer
from workers.downloads import transfer
from workers.downloads.cache_layout import RepositoryFolder
from workers.downloads.transfer import HubFile, Transfer

pytestmark = pytest.mark.integration

DATA = os.urandom(3 * MIB + 5)


def download(hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The blob."""
    found = listed(hub)
    (file,), commit = found.model.files, found.repository.revision
    address = f"{hub.endpoint}/{REPO}/resolve/{commit}/{FILE}"
    monkeypatch.setattr(HubFile, "url", property(lambda source: address))
    source = HubFile(RepositoryFolder(cache, REPO), commit, file, file.sha256)
    Transfer(0, lambda what, text: None).download(source)
    return source.folder.blob(source.etag)


def test_a_large_file_comes_in_ranges(hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub sends no more than 50 GB at once."""
    hub.add(REPO, {FILE: DATA})
    monkeypatch.setattr(transfer, "RANGE_BYTES", MIB)
    assert download(hub, cache, monkeypatch).read_bytes() == DATA
    assert sorted({each.start // MIB for each in hub.served if each.start % MIB == 0}) == [0, 1, 2, 3]
    assert sum(f"/{FILE}" in each for each in hub.requests) == 2 * 4, "the hub's redirect and the storage, four times"


def test_a_longer_partial_file_than_the_file_is_discarded(
    hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, {FILE: DATA})
    partial = RepositoryFolder(cache, REPO).partial(listed(hub).model.files[0].sha256)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(DATA + DATA)
    assert download(hub, cache, monkeypatch).read_bytes() == DATA


def test_a_complete_partial_file_is_only_checked(hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(REPO, {FILE: DATA})
    partial = RepositoryFolder(cache, REPO).partial(listed(hub).model.files[0].sha256)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(DATA)
    assert download(hub, cache, monkeypatch).read_bytes() == DATA
    assert not hub.bytes_served()


def test_bytes_of_an_earlier_try_that_are_wrong_cost_a_fresh_start(
    hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a power failure, or if two machines wrote into it over a network file system without locks."""
    hub.add(REPO, {FILE: DATA})
    partial = RepositoryFolder(cache, REPO).partial(listed(hub).model.files[0].sha256)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(bytes(MIB))
    assert download(hub, cache, monkeypatch).read_bytes() == DATA
    assert hub.bytes_served() == 2 * len(DATA) - MIB


@pytest.mark.parametrize("count", [0, MIB])
def test_a_page_in_the_place_of_a_file_costs_nothing_that_came_before(
    hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """As of a network that wants a login. It once took the place of what was there, and the file came twice."""
    hub.add(REPO, {FILE: DATA})
    partial = RepositoryFolder(cache, REPO).partial(listed(hub).model.files[0].sha256)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(DATA[:count])
    hub.fail(200, f"storage:{REPO}/{FILE}", times=1)
    assert download(hub, cache, monkeypatch).read_bytes() == DATA
    assert hub.bytes_served() == len(DATA) - count


def test_an_exhausted_quota_is_said(hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk itself has room."""

    def write_all(target: object, chunk: bytes) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    hub.add(REPO, {FILE: DATA})
    monkeypatch.setattr(transfer, "_write_all", write_all)
    with pytest.raises(DownloadFailed, match="/blobs takes no more: Disk quota exceeded"):
        download(hub, cache, monkeypatch)
