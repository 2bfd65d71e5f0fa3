"""Downloads against the Hugging Face-shaped server: threads, processes and files are real."""

from __future__ import annotations

import os
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from app.entities.download import DownloadState
from app.entities.repository import RepositoryName
from app.errors import DownloadFailed, Draining, Overloaded
from tests.downloads.pulls import (
    DATA,
    FILE,
    MIB,
    NAME,
    REPO,
    SECONDS,
    downloader,
    listed,
    partial,
    pull,
    size,
    snapshot_file,
    until,
)
from tests.helpers.hub_server import HubServer
from workers.downloads import downloader as downloader_module

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("repository")]


def test_a_complete_download_is_where_every_program_of_hugging_face_finds_it(hub: HubServer, cache: Path) -> None:
    completed: list[int] = []
    with closing(downloader(hub, cache, completed=lambda: completed.append(1))) as found:
        pull(found)
        (download,) = found.all
    assert download.done_bytes == download.total_bytes == len(DATA) and download.model == str(NAME)
    assert snapshot_file(cache, hub).read_bytes() == DATA
    assert os.readlink(snapshot_file(cache, hub)).startswith("../../blobs/"), "it can be moved with its cache"
    assert completed == [1]
    from huggingface_hub import try_to_load_from_cache

    assert try_to_load_from_cache(REPO, FILE, cache_dir=cache) == str(snapshot_file(cache, hub))


def test_a_file_that_is_here_is_not_fetched_again(hub: HubServer, cache: Path) -> None:
    with closing(downloader(hub, cache)) as found:
        pull(found)
        pull(found)
        assert len(found.all) == 1
    assert hub.bytes_served() == len(DATA)


def test_a_cut_connection_goes_on_where_it_was(hub: HubServer, cache: Path) -> None:
    hub.cut(FILE, at=3 * MIB)
    with closing(downloader(hub, cache)) as found:
        pull(found)
    assert snapshot_file(cache, hub).read_bytes() == DATA
    assert hub.bytes_served() < len(DATA) + MIB


def test_a_canceled_download_ends_at_once_and_the_next_one_goes_on_where_it_was(hub: HubServer, cache: Path) -> None:
    hub.hold(FILE, after=2 * MIB)
    with closing(downloader(hub, cache)) as found:
        found.start(RepositoryName(REPO))
        until(lambda: size(partial(cache, DATA)) == 2 * MIB)
        assert found.cancel(RepositoryName(REPO.upper(), FILE)), "by any of its names"
        ended = found.wait(NAME, 0)
        assert ended is not None and ended.state is DownloadState.CANCELED
        hub.release()
        pull(found)
    assert snapshot_file(cache, hub).read_bytes() == DATA
    assert sum(each.stop - each.start for each in hub.served if each.start < 2 * MIB) == 2 * MIB


def test_a_wrong_checksum_is_fetched_once_more(hub: HubServer, cache: Path) -> None:
    hub.damage(FILE, times=1)
    with closing(downloader(hub, cache)) as found:
        pull(found)
    assert snapshot_file(cache, hub).read_bytes() == DATA
    assert hub.bytes_served() == 2 * len(DATA)


def test_a_second_wrong_checksum_fails_and_leaves_nothing(hub: HubServer, cache: Path) -> None:
    hub.damage(FILE, times=None)
    with closing(downloader(hub, cache)) as found:
        found.start(NAME)
        with pytest.raises(DownloadFailed, match="wrong checksum"):
            found.wait(NAME, SECONDS)
        assert found.all[0].state is DownloadState.FAILED and "wrong checksum" in found.all[0].problem
    assert not partial(cache, DATA).exists() and not snapshot_file(cache, hub).exists()


def test_a_rate_limit_is_waited_for(hub: HubServer, cache: Path) -> None:
    hub.fail(429, path=FILE, times=1, headers={"Retry-After": "1"})
    with closing(downloader(hub, cache)) as found:
        began = time.monotonic()
        found.start(NAME)
        until(lambda: found.all[0].problem)
        assert found.all[0].problem == "the server answered 429; trying again in 1 s"
        assert pull(found).problem == ""
    assert time.monotonic() - began > 1


def test_a_server_that_ignores_ranges_costs_a_fresh_start(hub: HubServer, cache: Path) -> None:
    partial(cache, DATA).parent.mkdir(parents=True)
    partial(cache, DATA).write_bytes(DATA[:MIB])
    hub.ignore_ranges(FILE)
    with closing(downloader(hub, cache)) as found:
        pull(found)
    assert snapshot_file(cache, hub).read_bytes() == DATA


def test_no_room_on_the_disk_is_said_before_a_byte(hub: HubServer, cache: Path) -> None:
    with closing(downloader(hub, cache, reserve_bytes=1 << 60)) as found:
        found.start(NAME)
        with pytest.raises(DownloadFailed, match=r"no room on the disk of .*4 MiB still to download"):
            found.wait(NAME, SECONDS)
    assert hub.bytes_served() == 0


def test_two_pulls_of_one_model_are_one_whatever_its_name(hub: HubServer, cache: Path) -> None:
    hub.hold(FILE, after=MIB)
    with closing(downloader(hub, cache)) as found:
        found.start(NAME)
        until(lambda: found.all[0].total_bytes)
        found.start(RepositoryName(REPO))
        found.start(RepositoryName(REPO.upper(), "q4_k_m"))
        until(lambda: len(found.all) == 1)
        until(lambda: sum(each.name.startswith("download-") for each in threading.enumerate()) == 1)
        hub.release()
        ended = found.wait(RepositoryName(REPO), SECONDS)
        assert ended is not None and ended.state is DownloadState.COMPLETE
    assert hub.bytes_served() == len(DATA)


def test_two_processes_that_pull_one_file_fetch_it_once(hub: HubServer, cache: Path) -> None:
    hub.hold(FILE, after=MIB)
    with closing(downloader(hub, cache)) as first, closing(downloader(hub, cache)) as second:
        first.start(NAME)
        until(lambda: size(partial(cache, DATA)) == MIB)
        second.start(NAME)
        until(lambda: second.all[0].problem == "another process is downloading this file")
        assert second.all[0].done_bytes == MIB
        hub.release()
        pull(first)
        pull(second)
    assert hub.bytes_served() == len(DATA)


def test_a_shutdown_stops_the_process_and_starts_no_other(hub: HubServer, cache: Path) -> None:
    hub.hold(FILE, after=MIB)
    found = downloader(hub, cache)
    found.start(NAME)
    until(lambda: partial(cache, DATA).exists())
    found.close()
    assert found.all[0].state is DownloadState.CANCELED
    with pytest.raises(Draining):
        found.start(NAME)


def test_a_check_that_takes_too_long_ends(hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that sends its answer byte by byte kept one of four places."""
    monkeypatch.setattr(downloader_module, "CHECK_SECONDS", 0.05)
    answers = threading.Event()
    with closing(downloader(hub, cache, find=lambda name: answers.wait(SECONDS) and listed(hub))) as found:
        found.start(NAME)
        with pytest.raises(DownloadFailed, match="did not describe it within"):
            found.wait(NAME, SECONDS)
        answers.set()


def test_a_flood_of_pulls_is_rejected(hub: HubServer, cache: Path) -> None:
    answers = threading.Event()
    with closing(downloader(hub, cache, find=lambda name: answers.wait(SECONDS) and listed(hub))) as found:
        with pytest.raises(Overloaded, match="4 models are being downloaded"):
            for number in range(5):
                found.start(RepositoryName(f"org/model-{number}"))
        assert found.cancel(RepositoryName("org/model-2"))
        found.start(RepositoryName("org/model-5"))
        answers.set()


def test_one_key_leaves_a_place_for_others(hub: HubServer, cache: Path) -> None:
    answers = threading.Event()
    with closing(downloader(hub, cache, find=lambda name: answers.wait(SECONDS) and listed(hub))) as found:
        with pytest.raises(Overloaded, match="3 models are being downloaded for the key 'ann'"):
            for number in range(4):
                found.start(RepositoryName(f"org/model-{number}"), "ann")
        found.start(RepositoryName("org/model-1"), "ann")  # joins the one that runs
        found.start(RepositoryName("org/model-4"), "bob")
        answers.set()


def test_without_a_thread_it_fails_at_once(hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    found = downloader(hub, cache)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(Overloaded, match="no thread could be started"):
            found.start(NAME)
    assert found.all[0].state is DownloadState.FAILED and found.all[0].code == "overloaded"
    with closing(found):
        pull(found)


def test_the_files_of_a_model_appear_together(hub: HubServer, cache: Path) -> None:
    parts = ["m-Q4_K_M-00001-of-00002.gguf", "m-Q4_K_M-00002-of-00002.gguf"]
    hub.add(REPO, {parts[0]: os.urandom(MIB), parts[1]: os.urandom(MIB)})
    hub.hold(parts[1], after=1000)
    with closing(downloader(hub, cache)) as found:
        found.start(NAME)
        until(lambda: found.all[0].file == parts[1])
        assert not snapshot_file(cache, hub, parts[0]).exists()
        hub.release()
        pull(found)
    assert all(snapshot_file(cache, hub, part).stat().st_size == MIB for part in parts)


def test_a_revision_that_leaves_the_files_of_a_model_as_they_are_changes_nothing(hub: HubServer, cache: Path) -> None:
    """Its path would change, and a loaded model be loaded again."""
    with closing(downloader(hub, cache)) as found:
        pull(found)
        before = snapshot_file(cache, hub)
        hub.add(REPO, {FILE: DATA, "README.md": "new"})
        pull(found)
        assert before.exists() and not snapshot_file(cache, hub).exists()


def test_a_file_that_a_new_revision_has_too_is_linked_not_fetched(hub: HubServer, cache: Path) -> None:
    with closing(downloader(hub, cache)) as found:
        pull(found)
        hub.add(REPO, {FILE: DATA, "mmproj-F16.gguf": os.urandom(1000)})
        pull(found)
    assert snapshot_file(cache, hub).read_bytes() == DATA
    assert hub.bytes_served() == len(DATA) + 1000
