"""What goes wrong during a download: one line each that says what to do, and the partial download is kept."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from app.entities.download import DownloadState
from app.errors import DownloadFailed
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
from workers.downloads.transfer_process import Job

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("repository")]

TOKEN = "hf_of_a_reader"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a file system can be mounted by root only")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def failure(hub: HubServer, cache: Path, **options: object) -> str:
    with closing(downloader(hub, cache, **options)) as found:
        found.start(NAME)
        with pytest.raises(DownloadFailed) as raised:
            found.wait(NAME, SECONDS)
        (download,) = found.all
        assert download.state is DownloadState.FAILED and download.problem == str(raised.value)
    return download.problem


def test_a_disk_that_fills_up_ends_it_with_the_numbers_and_keeps_what_came(hub: HubServer, small_disk: Path) -> None:
    found = downloader(hub, small_disk)
    found._check_space = lambda *_: None  # type: ignore[method-assign]  # another program fills it after the check
    with closing(found):
        found.start(NAME)
        with pytest.raises(
            DownloadFailed, match=r"no room on the disk of .*/disk: 1 MiB still to download, 0 MiB free"
        ):
            found.wait(NAME, SECONDS)
    assert 2 * MIB < size(partial(small_disk, DATA)) <= 3 * MIB


def test_two_downloads_do_not_count_the_same_free_bytes(hub: HubServer, small_disk: Path) -> None:
    hub.add(REPO, {FILE: DATA[: 2 * MIB], "model-Q8_0.gguf": DATA[2 * MIB :]})
    hub.hold(FILE, after=1000)
    with closing(downloader(hub, small_disk)) as found:
        found.start(NAME)
        until(lambda: found.all[0].file)
        found.start(other := type(NAME)(REPO, "Q8_0"))
        with pytest.raises(DownloadFailed, match="2 MiB still to download, 1 MiB free"):
            found.wait(other, SECONDS)
        hub.release()
        pull(found)


def transfer_processes() -> list[psutil.Process]:
    """Of this process, which may have children of other tests."""
    running = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in running if any("transfer_process" in word for word in child.cmdline())]


def test_a_gated_model_says_how_to_get_access(hub: HubServer, cache: Path) -> None:
    hub.add(REPO, {FILE: DATA}, gated=True)
    assert "accept its licence" in failure(hub, cache)


def test_the_token_of_the_environment_is_sent_to_the_hub_alone(
    hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hub.add(REPO, {FILE: DATA}, gated=True, readers=frozenset({TOKEN}))
    hub.hold(FILE, after=MIB)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with caplog.at_level("DEBUG"), closing(downloader(hub, cache)) as found:
        found.start(NAME)
        until(lambda: size(partial(cache, DATA)) == MIB)
        assert not any(TOKEN in word for child in transfer_processes() for word in child.cmdline())
        hub.release()
        pull(found)
    assert not hub.tokens_sent_to_storage and TOKEN not in caplog.text
    assert snapshot_file(cache, hub).read_bytes() == DATA


def test_the_keys_of_the_service_are_not_in_the_environment_of_the_process(
    hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.hold(FILE, after=MIB)
    monkeypatch.setenv("LLAMA_SMART_PROXY_KEY", "secret")
    with closing(downloader(hub, cache)) as found:
        found.start(NAME)
        until(lambda: size(partial(cache, DATA)) == MIB)
        environments = [child.environ() for child in transfer_processes()]
    assert environments and not any("LLAMA_SMART_PROXY_KEY" in each for each in environments)


def test_a_network_that_goes_and_comes_back_costs_no_byte_twice(hub: HubServer, cache: Path) -> None:
    hub.hold(FILE, after=2 * MIB)
    with closing(downloader(hub, cache)) as found:
        found.start(NAME)
        until(lambda: size(partial(cache, DATA)) == 2 * MIB)
        hub.go_offline()
        hub.release()
        hub.come_back()
        pull(found)
    assert snapshot_file(cache, hub).read_bytes() == DATA


def test_offline_mode_is_said(hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in failure(hub, cache)


def test_a_killed_process_is_said_and_the_next_try_goes_on(hub: HubServer, cache: Path) -> None:
    hub.hold(FILE, after=MIB)
    with closing(downloader(hub, cache)) as found:
        found.start(NAME)
        until(lambda: size(partial(cache, DATA)) == MIB)
        for child in transfer_processes():
            child.kill()
        with pytest.raises(DownloadFailed, match="the partial download is kept"):
            found.wait(NAME, SECONDS)
        hub.release()
        pull(found)
    assert snapshot_file(cache, hub).read_bytes() == DATA


def test_the_process_ends_with_a_service_that_is_killed(
    hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "100")  # then it would notice by itself
    hub.hold(FILE, after=MIB)
    job = Job(cache, (found := listed(hub)).repository, found.model.files, reserve_bytes=0)
    code = "import pickle, sys, time; from workers.downloads.transfer_child import TransferChild as Child; "
    code += "child = Child(pickle.load(sys.stdin.buffer)); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-P", "-c", code], stdin=subprocess.PIPE) as service:
        assert service.stdin is not None
        service.stdin.write(pickle.dumps(job))
        service.stdin.close()
        until(lambda: size(partial(cache, DATA)) == MIB)
        (child,) = psutil.Process(service.pid).children()
        service.kill()
    until(lambda: not child.is_running())


def test_a_cache_that_may_not_be_written_is_named(hub: HubServer, small_disk: Path) -> None:
    hub.add(REPO, {FILE: DATA[:MIB]})
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    problem = failure(hub, small_disk)
    assert f"{small_disk}/" in problem and "may not be written (Read-only file system); set HF_HOME" in problem


@pytest.mark.parametrize("path", ["../../../escaped-Q4_K_M.gguf", "/tmp/escaped-Q4_K_M.gguf"])
def test_a_server_cannot_write_outside_the_cache(hub: HubServer, cache: Path, path: str) -> None:
    hub.add(REPO, {path: DATA})
    assert "as the path of a file" in failure(hub, cache)
    assert not list(cache.parent.rglob("escaped*"))
