"""Headers of models in repositories: read like those of files, and never more than a bounded part."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import DownloadFailed, InvalidModelFile, ProxyError
from tests.helpers.gguf_bytes import TINY, Info, a_file, a_header
from tests.helpers.hub_repository import Content
from tests.helpers.hub_server import HubServer
from workers.downloads import hub as hub_access
from workers.downloads import remote_header
from workers.downloads.hub import Hub
from workers.downloads.remote_header import FIRST_WINDOW_BYTES, read_remote_header
from workers.gguf.header import read_header

pytestmark = pytest.mark.integration
REPO, FILE = "org/model-GGUF", "a-Q4_0.gguf"
GIB = 1024**3
TOKENS = {**TINY, "tokenizer.ggml.tokens": [f"token {number:08}" for number in range(200_000)]}  # 4.4 MB


def read(hub: HubServer, files: dict[str, bytes | Content], **options: object) -> object:
    hub.add(REPO, files, **options)
    repository = Hub(hub.endpoint).repository(REPO)
    return read_remote_header(Hub(hub.endpoint), repository, repository.files)


def failure(hub: HubServer, content: bytes | Content, **options: object) -> ProxyError:
    with pytest.raises(ProxyError) as error:
        read(hub, {FILE: content}, **options)
    assert "\n" not in str(error.value)
    return error.value


def test_a_header_is_read_as_from_a_file_and_hardly_a_byte_of_weights(hub: HubServer, tmp_path: Path):
    header = a_header(TOKENS, [Info(shape=(1 << 30, 20))])
    (tmp_path / FILE).write_bytes(header)
    with (tmp_path / FILE).open("rb+") as file:
        file.truncate(len(header) + 80 * GIB)  # sparse
    assert read(hub, {FILE: Content(header, len(header) + 80 * GIB)}) == read_header(str(tmp_path / FILE))
    assert hub.furthest_byte(REPO, FILE) <= 2 * len(header) + FIRST_WINDOW_BYTES
    assert len([line for line in hub.requests if "/resolve/" in line]) <= 6
    assert hub.tokens_sent_to_storage == []


def test_a_split_model_is_read_part_by_part(hub: HubServer, tmp_path: Path):
    parts = {
        f"a-0000{number + 1}-of-00002.gguf": a_file(
            {**TINY, "split.count": 2, "split.no": number, "split.tensors.count": 2}, [Info(f"t{number}")]
        )
        for number in range(2)
    }
    for name, content in parts.items():
        (tmp_path / name).write_bytes(content)
    assert read(hub, dict(parts)) == read_header(str(tmp_path / "a-00001-of-00002.gguf"))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"<html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
        (b"", "is empty"),
        (a_file()[:40], "more than its 40 bytes can hold"),
        (a_header(), "is truncated or still being written"),  # without its tensors
        (a_file(TINY, version=1), "version 1"),
    ],
)
def test_a_broken_file_is_recognized_before_it_is_fetched(hub: HubServer, content: bytes, problem: str):
    error = failure(hub, content)
    assert isinstance(error, InvalidModelFile)
    assert f"{FILE} " in error.problem and problem in error.problem


def test_a_server_that_ignores_ranges_costs_no_more_than_the_header(hub: HubServer):
    header = a_header(TOKENS, [Info(shape=(1 << 30,))])
    hub.ignore_ranges(FILE)
    assert read(hub, {FILE: Content(header, len(header) + 4 * GIB)})
    assert hub.bytes_served(REPO, FILE) < 64 << 20  # what the kernel buffers of each answer included


def test_a_range_that_nobody_asked_for_is_not_taken_for_the_header(hub: HubServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tests.helpers.hub_answers._Handler._range", lambda self, size: (1, size))
    assert "the server answered another range than asked for" in str(failure(hub, a_file()))


def test_a_server_that_says_nothing_is_not_waited_for(hub: HubServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hub_access, "SILENCE_SECONDS", 0.2)
    hub.hold(FILE, after=10)
    assert "127.0.0.1 did not answer in time; try again" in str(failure(hub, a_file()))


def test_a_header_without_end_is_given_up(hub: HubServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote_header, "MAX_HEADER_BYTES", 2 << 20)
    error = failure(hub, Content(a_header(TOKENS, [Info()]), 4 * GIB))
    assert isinstance(error, InvalidModelFile) and "its header is longer than 2 MiB" in str(error)
    assert hub.bytes_served() <= 2 << 20


def test_slow_bytes_are_waited_for_only_so_long(hub: HubServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote_header, "HEADER_SECONDS", 0.2)
    hub.bytes_per_second = 100_000
    assert "answers too slowly" in str(failure(hub, Content(a_header(TOKENS, [Info()]), 4 * GIB)))


def test_a_gated_file_says_what_to_do_and_a_token_opens_it(hub: HubServer, monkeypatch: pytest.MonkeyPatch):
    options = {"gated": True, "readers": frozenset({"member"})}
    error = failure(hub, a_file(), **options)
    assert isinstance(error, DownloadFailed)
    assert f"is gated: accept its licence on https://huggingface.co/{REPO}, then set HF_TOKEN" in str(error)
    monkeypatch.setenv("HF_TOKEN", "member")
    assert read(hub, {FILE: a_file()}, **options)
    assert hub.tokens_sent_to_storage == []


def test_a_cut_in_the_header_is_read_on_from_there_and_told_if_it_stays(hub: HubServer):
    hub.cut(FILE, at=30)
    assert read(hub, {FILE: a_file()})
    assert hub.bytes_served(REPO, FILE) == len(a_file())
    hub.cut(FILE, at=30, times=None)
    assert "127.0.0.1 closed the connection early; try again" in str(failure(hub, a_file()))
