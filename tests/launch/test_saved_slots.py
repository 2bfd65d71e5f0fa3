"""Saved KV caches: their names, which are restored and which are deleted."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from app.use_cases.launch.saved_slots import (
    SavedSlot,
    files_to_delete,
    folder_name,
    match_slots,
    saved_slot,
    start_digest,
)
from app.use_cases.scheduling.effects import StopReason
from tests.helpers.builders import a_launch, a_model, a_server, an_engine, replace
from workers.catalog.model_headers import stamp_of
from workers.server import kept_cache, slot_files
from workers.server.kept_cache import KeptCaches
from workers.server.slot_files import SlotFiles

START, OTHER_START = "0123456789abcdef", "fedcba9876543210"
A, B = "aaaaaaaa", "bbbbbbbb"  # servers


def saved(at_ms: int = 1000, server: str = A, slot: int = 0, size_bytes: int = 0, start: str = START) -> SavedSlot:
    return SavedSlot(start, at_ms, server, slot, size_bytes, "f")


# --- names ---------------------------------------------------------------------------------------------------------


def test_a_file_name_round_trips():
    one = saved(1764241370123, slot=3, size_bytes=7)
    assert one.name == "0123456789abcdef-1764241370123-aaaaaaaa-3.kv"
    assert saved_slot(one.name, 7, "f") == one


@pytest.mark.parametrize(
    "name", ["", "x.kv", f"{saved().name}.writing", f"{saved().name}.reading", f"../{saved().name}"]
)
def test_other_file_names_are_ignored(name: str):
    assert saved_slot(name, 0, "f") is None


def test_any_model_name_becomes_a_plain_folder_name():
    names = ["qwen3-8b", "user/repo:Q4_K_M", "user_repo_Q4_K_M", "..", ".", "../../etc", "模型", "x" * 512, "x" * 511]
    folders = [folder_name(name) for name in names]
    assert len(set(folders)) == len(names)
    assert all(Path(folder).name == folder and len(folder) < 60 and folder[0] != "." for folder in folders)
    assert folders[0].startswith("qwen3-8b-")


MODEL = a_model("qwen")
ENGINE = an_engine("--kv-unified")
SAVING = an_engine("--slot-save-path")


def with_launch(**settings: object):
    return replace(MODEL, launch=a_launch(parallel=MODEL.launch.options.parallel, **settings))


@pytest.mark.parametrize(
    "model",
    [
        replace(MODEL, path="/models/other.gguf"),
        with_launch(ctx_size=8192),
        with_launch(cache_type_k="q8_0"),
        with_launch(args=("--rope-freq-base", "20000")),
        with_launch(env={"LLAMA_ARG_ROPE_FREQ_BASE": "20000"}),
        with_launch(mmproj="/models/mmproj.gguf"),
    ],
)
def test_options_that_affect_the_cache_change_the_digest(model):
    engine = an_engine("--kv-unified", "--mmproj")
    assert start_digest(model, engine, {}, ()) != start_digest(MODEL, engine, {}, ())


def test_files_engine_and_shared_variables_change_the_digest():
    digests = {
        start_digest(MODEL, ENGINE, {}, [(1, 2)]),
        start_digest(MODEL, ENGINE, {}, [(1, 3)]),
        start_digest(MODEL, replace(ENGINE, identity="newer"), {}, [(1, 2)]),
        start_digest(MODEL, ENGINE, {"GGML_X": "1"}, [(1, 2)]),
    }
    assert len(digests) == 4


@pytest.mark.parametrize(
    "model",
    [
        replace(MODEL, priority=3, aliases=("x",)),
        with_launch(n_gpu_layers=10, gpus=("GPU-a",), tensor_split=(1, 2), n_cpu_moe=2),
        with_launch(env={"TOKEN": "secret"}),
    ],
)
def test_placement_and_names_do_not_change_the_digest(model):
    assert start_digest(model, ENGINE, {"PATH": "/bin"}, ()) == start_digest(MODEL, ENGINE, {}, ())


# --- which are restored or deleted ---------------------------------------------------------------------------------


def test_the_newest_files_are_restored_each_to_its_own_slot():
    old, new, newest = saved(1, slot=0), saved(2, slot=2), saved(3, slot=1)
    assert match_slots([old, new, newest], slots=2) == [(newest, 1), (new, 0)]
    assert match_slots([old, new, newest], slots=4) == [(newest, 1), (new, 2), (old, 0)]


def test_a_file_whose_slot_is_taken_gets_a_free_slot():
    first, second, third = saved(3, A, slot=0), saved(2, B, slot=0), saved(1, B, slot=1)
    assert match_slots([third, second, first], slots=3) == [(first, 0), (second, 2), (third, 1)]


def test_each_file_gets_a_slot_whatever_its_slot_was():
    """All pairs of slots of two servers, restored to a server with two slots."""
    for first in range(4):
        for second in range(4):
            matched = match_slots([saved(2, A, slot=first), saved(1, B, slot=second)], slots=2)
            assert sorted(slot for _, slot in matched) == [0, 1]


def test_the_oldest_files_are_deleted_first_and_no_more_than_necessary():
    old, new, newest = saved(1, size_bytes=10), saved(2, size_bytes=10), saved(3, size_bytes=10)
    files = [newest, old, new]
    assert files_to_delete(files, needed_bytes=5, left_bytes=5, free_bytes=99) == ()
    assert files_to_delete(files, needed_bytes=15, left_bytes=5, free_bytes=99) == (old,)
    assert files_to_delete(files, needed_bytes=16, left_bytes=5, free_bytes=99) == (old, new)
    assert files_to_delete(files, needed_bytes=16, left_bytes=99, free_bytes=5) == (old, new), (
        "free disk space is a limit too"
    )
    assert files_to_delete(files, needed_bytes=36, left_bytes=5, free_bytes=99) is None, "nothing is deleted in vain"
    assert files_to_delete([], needed_bytes=0, left_bytes=-1, free_bytes=99) is None


# --- the folder -------------------------------------------------------------------------------------------------------


def write(files: SlotFiles, model: str, slot: SavedSlot, size_bytes: int = 10) -> bool:
    file = files.begin(model, slot, size_bytes)
    if file is None:
        return False
    file.write_bytes(bytes(size_bytes))
    return files.finish(file, slot, is_whole=True)


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.kv*"))


def test_two_servers_of_a_model_take_different_files(tmp_path: Path):
    files = SlotFiles(tmp_path / "slots", 1000)
    for server in (A, B):
        for slot in (0, 1):
            assert write(files, "m", saved(1000, server, slot))
    first, second = files.take("m", START, slots=2), files.take("m", START, slots=2)
    assert len(first) == len(second) == 2
    assert not {path for path, _ in first} & {path for path, _ in second}
    assert files.take("m", START, slots=2) == []


def test_a_file_that_was_put_back_can_be_taken_again(tmp_path: Path):
    files = SlotFiles(tmp_path / "slots", 1000)
    write(files, "m", saved())
    ((file, _),) = files.take("m", START, slots=1)
    files.put_back(file)
    assert kept(tmp_path) == [saved().name]


def test_files_of_another_start_are_deleted_but_not_those_of_other_models(tmp_path: Path):
    files = SlotFiles(tmp_path / "slots", 1000)
    write(files, "m", saved(start=OTHER_START))
    write(files, "n", saved(start=OTHER_START, slot=1))
    assert files.take("m", START, slots=4) == []
    assert kept(tmp_path) == [saved(start=OTHER_START, slot=1).name]


def test_a_file_being_written_counts_with_its_maximum_size(tmp_path: Path):
    files = SlotFiles(tmp_path / "slots", 100)
    assert write(files, "m", saved(1, A), 10)
    assert files.begin("m", saved(2, B), 60)
    assert files.begin("n", saved(3, "cccccccc"), 50) is None
    assert kept(tmp_path) == [saved(1, A).name, saved(2, B).name + ".writing"]


def test_a_server_does_not_delete_the_files_it_has_just_saved(tmp_path: Path):
    files = SlotFiles(tmp_path / "slots", 100)
    assert write(files, "m", saved(1, A), 40)
    assert write(files, "m", saved(2, B, slot=0), 60)
    assert write(files, "m", saved(2, B, slot=1), 40)
    assert not write(files, "m", saved(2, B, slot=2), 10)
    assert kept(tmp_path) == [saved(2, B, slot=0).name, saved(2, B, slot=1).name]


def test_the_disk_reserve_is_kept_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(slot_files, "DISK_RESERVE_BYTES", 2**60)
    assert not write(SlotFiles(tmp_path / "slots", 1000), "m", saved())
    assert kept(tmp_path) == []


def test_with_a_quota_of_zero_nothing_is_saved(tmp_path: Path):
    assert not write(SlotFiles(tmp_path / "slots", 0), "m", saved())


# --- one server ------------------------------------------------------------------------------------------------------


@pytest.mark.integration
def test_after_one_restore_timed_out_no_other_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The file that was tried is deleted, the others are kept for the next start."""
    monkeypatch.setattr(kept_cache, "RESTORE_SECONDS", 0.3)
    files = SlotFiles(tmp_path / "slots", 1000)
    server = a_server(replace(MODEL, keep_kv_cache=True), 1000)
    start = start_digest(server.model, SAVING, {}, [stamp_of(server.model.path)])
    for slot in (0, 1):
        write(files, "qwen", saved(slot=slot, start=start))
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        woken = threading.Event()
        cache = KeptCaches(files, {}).prepare(server, SAVING, woken.set)
        assert cache is not None
        assert cache.restore(deaf.getsockname()[1], "key")
        assert woken.wait(6)
        assert not cache.restore(deaf.getsockname()[1], "key")
    cache.return_untried()
    assert kept(tmp_path) == [saved(slot=1, start=start).name]


def test_without_a_thread_nothing_is_restored_and_no_file_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files = SlotFiles(tmp_path / "slots", 1000)
    server = a_server(replace(MODEL, keep_kv_cache=True), 1000)
    file = saved(start=start_digest(server.model, SAVING, {}, [stamp_of(server.model.path)]))
    write(files, "qwen", file)
    cache = KeptCaches(files, {}).prepare(server, SAVING, bool)
    assert cache is not None

    def fail_to_start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail_to_start)
    assert not cache.restore(1, "key")
    cache.save(1, "key", seconds=600)
    assert cache.deadline <= time.monotonic()
    cache.return_untried()
    assert kept(tmp_path) == [file.name]


def test_a_server_that_hangs_or_failed_is_not_saved():
    saves = {reason.value for reason in StopReason if reason.allows_cache_save}
    assert saves == {"idle", "room", "prompt_cache", "drained", "unload", "shutdown", "gpu_usable", "gpu_unused"}


def test_without_keep_kv_cache_nothing_is_written(tmp_path: Path):
    assert KeptCaches(SlotFiles(tmp_path / "slots", 1000), {}).prepare(a_server(MODEL, 1000), SAVING, bool) is None
    assert list(tmp_path.iterdir()) == []


def test_without_a_writable_folder_the_model_is_served_without_saving(tmp_path: Path):
    (tmp_path / "slots").write_text("a file")
    server = a_server(replace(MODEL, keep_kv_cache=True), 1000)
    assert KeptCaches(SlotFiles(tmp_path / "slots", 1000), {}).prepare(server, SAVING, bool) is None
