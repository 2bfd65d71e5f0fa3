"""The history of measured loads, and that no problem with its file affects the service."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

import workers.measurement.model_history
from app.entities.memory import Confidence, DeviceMemory, Estimate
from app.entities.placement import Placement
from app.use_cases.estimate.estimate import GPU_OVERHEAD_BYTES
from app.use_cases.launch.command_line import launch_on
from tests.helpers.builders import MIB, a_launch, a_model, an_engine, replace
from workers.measurement.history import History
from workers.measurement.model_history import BASE_BYTES, HOST, start_of

GPU = "NVIDIA GeForce RTX 4090"


def a_start(name: str = "a", *gpus: str):
    return start_of(a_model(name), an_engine(), gpus)


def a_need(mib: int = 100, overhead_mib: int = 0) -> Estimate:
    return Estimate((), DeviceMemory(mib * MIB, overhead_bytes=overhead_mib * MIB), Confidence.MEASURED, ("a note",))


def on_gpu(mib: int) -> Estimate:
    return replace(a_need(overhead_mib=20), devices=(DeviceMemory(mib * MIB),))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "history.sqlite3"


def started(file: Path) -> History:
    history = History(file)
    history.start()
    return history


def test_the_history_is_kept_over_a_restart(file: Path):
    first = started(file)
    assert first.estimate(a_start()) is None
    first.remember(a_start(), a_need(100, overhead_mib=20))
    first.remember(a_start("b", GPU), on_gpu(50), {0: 300 * MIB})
    first.close()
    second = started(file)
    assert second.estimate(a_start()) == a_need(100, overhead_mib=20)
    assert second.estimate(a_start("b", GPU)).devices == (DeviceMemory(50 * MIB, overhead_bytes=250 * MIB),)
    assert second.of_model("", "id").overheads == {HOST: 20 * MIB, GPU: 250 * MIB}
    second.close()


def test_a_start_differs_by_file_options_engine_and_gpu():
    model, engine = a_model(), an_engine("-fit")
    other_settings = [
        {"ctx_size": 8192},
        {"parallel": 3},
        {"cache_type_k": "q8_0"},
        {"ubatch_size": 64},
        {"n_gpu_layers": 9},
        {"args": ("--swa-full",)},
        {"env": {"GGML_CUDA_NO_VMM": "1"}},
    ]
    starts = [
        start_of(model, engine),
        start_of(replace(model, created=7), engine),
        start_of(replace(model, size_bytes=7), engine),
        start_of(replace(model, path="/models/else.gguf"), engine),
        start_of(model, replace(engine, identity="newer")),
        start_of(model, engine, (GPU,)),
        start_of(model, engine, (GPU, GPU)),
        *(start_of(replace(model, launch=a_launch(**settings)), engine) for settings in other_settings),
    ]
    assert len({start.key for start in starts}) == len(starts)


def test_keys_of_earlier_releases_stay_valid():
    """Computed on 2026-12-01. A different key discards all users' measured loads."""
    launch = a_launch(
        cache_type_k="q8_0", kv_unified=False, n_gpu_layers=20, n_cpu_moe=3, args=("--swa-full",), env={"GGML_X": "1"}
    )
    model, engine = a_model(), an_engine("-fit", "--log-jsonl", "--no-kv-unified")
    estimate = Estimate((DeviceMemory(), DeviceMemory()), DeviceMemory(), Confidence.EXACT)
    placement = Placement(("GPU-a", "GPU-b"), (10, 23), 33, 16384, 4, estimate)
    launches = (model.launch, launch, launch_on(launch, placement))
    keys = [start_of(replace(model, launch=settings), engine, (GPU,)).key[:16] for settings in launches]
    assert keys == ["4b0c9cda21bff28b", "ca44827cc6f7a14a", "d8b5d45921f8d652"]


def test_a_models_name_and_secrets_are_not_part_of_its_start():
    model = a_model()
    secret = replace(model, name="b", aliases=("c",), launch=replace(model.launch, env={"HF_TOKEN": "secret"}))
    assert start_of(secret, an_engine()) == start_of(model, an_engine())


def test_an_overhead_is_the_median_of_the_last_loads(file: Path):
    history = started(file)
    assert history.of_model("", "id").overheads == {}
    for number, mib in enumerate((900, 451, 456, 9000, 456, 449)):
        history.remember(a_start(f"m{number}", GPU), on_gpu(50), {0: (50 + mib) * MIB})
    assert history.of_model("", "id").overheads[GPU] == 456 * MIB  # of 451, 456, 9000, 456, 449
    history.close()


def test_an_unmeasured_start_has_the_overhead_of_others(file: Path):
    """In some containers NVML lists no processes, and a projection measures nothing."""
    history = started(file)
    history.remember(a_start("b", GPU), on_gpu(50), is_measured=False)
    assert history.estimate(a_start("b", GPU)).devices == (DeviceMemory(50 * MIB, overhead_bytes=GPU_OVERHEAD_BYTES),)
    history.remember(a_start("a", GPU), on_gpu(100), {0: 400 * MIB})
    assert history.estimate(a_start("b", GPU)).devices == (DeviceMemory(50 * MIB, overhead_bytes=300 * MIB),)
    history.close()


def test_a_gpu_not_used_before_has_the_overhead_of_the_table(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workers.measurement.model_history, "measured_overheads", lambda: {GPU: 480 * MIB})
    history = started(file)
    need = history.with_overheads(a_start("a", GPU, "another"), replace(on_gpu(50), devices=(DeviceMemory(1),) * 2))
    assert [each.overhead_bytes for each in need.devices] == [480 * MIB, GPU_OVERHEAD_BYTES]
    history.remember(a_start("b", GPU), on_gpu(50), {0: (50 + 300) * MIB})
    assert history.with_overheads(a_start("a", GPU), on_gpu(50)).devices[0].overhead_bytes == 300 * MIB
    history.close()


def test_ram_has_a_default_overhead(file: Path):
    history = started(file)
    history.remember(a_start(), a_need(100), is_measured=False)
    assert history.estimate(a_start()).host.overhead_bytes == BASE_BYTES
    history.remember(a_start("b"), a_need(100, overhead_mib=20))
    assert history.estimate(a_start()).host.overhead_bytes == 20 * MIB
    history.close()


def test_a_start_keeps_its_own_overhead(file: Path):
    """Its projection is compared with the booking, which is from the same row."""
    history = started(file)
    history.remember(a_start(), a_need(100, overhead_mib=20))
    for name in "bcd":
        history.remember(a_start(name), a_need(100, overhead_mib=70))
    assert history.with_overheads(a_start(), a_need(99)).host.overhead_bytes == 20 * MIB
    history.close()


def test_only_the_newest_rows_are_kept(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workers.measurement.history, "MAX_ROWS", 3)
    first = started(file)
    for name in "abcda":
        first.remember(a_start(name), a_need())
    first.close()
    for history in (first, started(file)):
        assert [name for name in "abcd" if history.estimate(a_start(name))] == ["a", "c", "d"]


def test_a_broken_database_is_renamed_and_replaced(file: Path, caplog: pytest.LogCaptureFixture):
    file.parent.mkdir()
    file.write_bytes(b"this is no database " * 100)
    history = started(file)
    history.remember(a_start(), a_need())
    history.close()
    assert "cannot be used" in caplog.text
    assert started(file).estimate(a_start()) is not None


def test_a_database_of_a_newer_version_is_not_modified(file: Path, caplog: pytest.LogCaptureFixture):
    started(file).close()
    with sqlite3.connect(file) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    history = started(file)
    history.remember(a_start(), a_need())
    history.close()
    assert history.estimate(a_start()), "kept in memory all the same"
    assert caplog.text.count("its schema version is 99") == 2
    with sqlite3.connect(file) as database:
        assert database.execute("SELECT count(*) FROM loads").fetchone() == (0,)
    database.close()


def test_a_locked_database_blocks_no_caller(file: Path, caplog: pytest.LogCaptureFixture):
    started(file).close()
    locker = sqlite3.connect(file)
    locker.execute("BEGIN EXCLUSIVE")
    history = started(file)
    begun_at = time.monotonic()
    history.remember(a_start(), a_need())
    assert history.estimate(a_start()) is not None
    assert time.monotonic() - begun_at < workers.measurement.history.BUSY_SECONDS / 2
    history.close(timeout=20)
    assert "database is locked" in caplog.text
    locker.close()


def test_a_folder_that_is_not_writable_is_a_warning(caplog: pytest.LogCaptureFixture):
    history = started(Path("/dev/null/nowhere/history.sqlite3"))
    history.remember(a_start(), a_need())
    history.close()
    assert history.estimate(a_start()) is not None
    assert "measurements are lost at the next restart" in caplog.text


def test_an_unreadable_row_is_skipped(file: Path):
    first = started(file)
    first.remember(a_start("a"), a_need())
    first.remember(a_start("b"), a_need())
    first.close()
    with sqlite3.connect(file) as database:
        database.execute("UPDATE loads SET need = ? WHERE model = ?", ('{"host": 7}', a_model("a").path))
    database.close()
    second = started(file)
    assert (second.estimate(a_start("a")), second.estimate(a_start("b"))) == (None, a_need_with_base())
    second.close()


def a_need_with_base() -> Estimate:
    return replace(a_need(), host=DeviceMemory(100 * MIB, overhead_bytes=BASE_BYTES))
