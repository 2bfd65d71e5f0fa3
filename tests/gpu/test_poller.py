"""The poller: who reads, how often, and what is known of the GPUs when NVML hangs."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import workers.gpu.poller
from app.entities.gpu import LATE_POLLS, LATE_SECONDS, Gpu, GpuSnapshot, GpuState, MissingGpu
from app.use_cases.reporting.gpu_report import gpu_pool_status
from app.use_cases.scheduling.pool_state import PoolState
from tests.helpers.service import wait_for
from workers.gpu.evidence import SeenGpus
from workers.gpu.poller import GpuPoller
from workers.telemetry.store import StateStore

pytestmark = pytest.mark.integration

A = Gpu("GPU-a", 0, "RTX 4090")


class Card:
    """What a reading finds, and how long it takes."""

    def __init__(self, *gpus: Gpu) -> None:
        self.gpus = gpus
        self.readings = 0
        self.answers = threading.Event()
        self.answers.set()
        self.bug: Exception | None = None

    def read(self) -> GpuSnapshot:
        at = time.monotonic()
        self.readings += 1
        assert self.answers.wait(60)
        if self.bug:
            raise self.bug
        return GpuSnapshot(GpuState.OK if self.gpus else GpuState.NO_LIBRARY, at, self.gpus, problem="no library")


POLLERS: list[GpuPoller] = []


@pytest.fixture(autouse=True)
def no_poller_outlives_its_test() -> Iterator[None]:
    yield
    while POLLERS:
        POLLERS.pop().close()


def polling(
    folder: Path,
    card: Card,
    expected: Callable[[SeenGpus], str] = SeenGpus.names,
    can_use: Callable[[], str] = lambda: "",
) -> tuple[StateStore, GpuPoller]:
    store = StateStore(PoolState())
    poller = GpuPoller(
        store, card.read, SeenGpus(folder / "gpus.json"), poll_seconds=0.02, expected=expected, can_use=can_use
    )
    poller.start()
    POLLERS.append(poller)
    wait_for(lambda: store.gpus.state is not GpuState.UNREAD or not card.answers.is_set(), 10)
    return store, poller


def test_readings_come_again_and_again(tmp_path: Path):
    card = Card(A)
    store, _ = polling(tmp_path, card)
    first = store.gpus
    assert (first.gpus, first.complaints) == ((A,), ())
    wait_for(lambda: card.readings > 5 and store.gpus.at > first.at, 10)


def test_a_machine_without_gpus_is_read_once_and_needs_no_scheduler(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    store, poller = polling(tmp_path, card := Card())
    wait_for(lambda: "no NVIDIA GPU: no library" in caplog.text, 10)
    time.sleep(0.3)  # fifteen polls
    assert card.readings == 1
    assert store.gpus.complaints == ()
    assert store.gpus.as_of(time.monotonic() + 10_000).state is GpuState.NO_LIBRARY  # nothing is due, nothing is late
    card.gpus = (A,)
    poller.read_now()
    wait_for(lambda: store.gpus.gpus == (A,) and card.readings > 5, 10)  # from now on it is polled


def test_such_a_machine_does_not_even_import_the_scheduler(tmp_path: Path):
    code = (
        "import sys, time; from pathlib import Path; from tests.gpu.test_poller import Card, polling\n"
        f"store, _ = polling(Path({str(tmp_path)!r}), Card()); time.sleep(.2)\n"
        "print(store.gpus.state, 'apscheduler' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.split() == ["no_library", "False"]


def test_gpus_that_should_be_there_are_missed_and_polled_for(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    card = Card()
    store, _ = polling(tmp_path, card, expected=lambda seen: "there is one on the bus")
    assert store.gpus.complaints == ("no GPU: no library; there is one on the bus",)
    card.gpus = (A,)
    wait_for(lambda: store.gpus.gpus == (A,), 10)
    assert (store.gpus.complaints, store.gpus.expected) == ((), "")


def test_what_was_seen_once_is_missed_in_the_next_life(tmp_path: Path):
    polling(tmp_path, Card(A))
    wait_for((tmp_path / "gpus.json").exists, 10)
    store, _ = polling(tmp_path, Card())
    assert store.gpus.complaints == ("no GPU: no library; RTX 4090",)


def test_a_reading_that_hangs_is_the_only_one_and_the_next_one_heals(tmp_path: Path):
    """A driver may keep a call for minutes. No second one is sent after it, and its answer is the end of it."""
    card = Card(A)
    store, _ = polling(tmp_path, card)
    wait_for(lambda: card.readings > 3, 10)
    card.answers.clear()
    before = threading.active_count()
    wait_for(lambda: store.gpus.as_of(time.monotonic() + LATE_SECONDS).state is GpuState.HUNG, 10)
    readings = card.readings
    time.sleep(0.3)
    assert (card.readings, threading.active_count()) == (readings, before)
    card.answers.set()
    wait_for(lambda: card.readings > readings + 3 and store.gpus.as_of(time.monotonic()).state is GpuState.OK, 10)


def test_a_hang_is_logged_once_by_who_is_not_in_it(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    card = Card(A)
    store, _ = polling(tmp_path, card)
    wait_for(lambda: card.readings > 3, 10)
    card.answers.clear()
    wait_for(lambda: "state=hung" in caplog.text, 20)
    time.sleep(0.2)
    assert caplog.text.count("state=hung") == 1
    assert "apscheduler" not in caplog.text
    card.answers.set()
    wait_for(lambda: store.gpus.as_of(time.monotonic()).state is GpuState.OK, 10)


def test_the_first_reading_may_hang_as_well(tmp_path: Path):
    card = Card(A)
    card.answers.clear()
    store, _ = polling(tmp_path, card)
    now = time.monotonic()
    assert (store.gpus.state, store.gpus.as_of(now).complaints) == (GpuState.UNREAD, ())
    assert store.gpus.as_of(now + 60).state is GpuState.HUNG
    card.answers.set()
    wait_for(lambda: store.gpus.gpus == (A,), 10)


def test_a_wall_clock_that_is_set_back_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """APScheduler goes by it, and would not ring for as long as it was set back."""
    monkeypatch.setattr(GpuPoller, "_ring", lambda poller: None)
    polling(tmp_path, card := Card(A))
    wait_for(lambda: card.readings > 5, 10)


def test_a_bug_is_a_state_and_heals(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    card = Card(A)
    store, _ = polling(tmp_path, card)
    card.bug = AssertionError("odd")
    wait_for(lambda: store.gpus.state is GpuState.FAILED, 10)
    assert store.gpus.complaints == ("no GPU: internal error: odd; RTX 4090",)
    card.bug = None
    wait_for(lambda: store.gpus.state is GpuState.OK, 10)
    assert caplog.text.count("Traceback") >= 1


def test_closed_it_reads_no_more_and_leaves_no_thread(tmp_path: Path):
    before = threading.active_count()
    _, poller = polling(tmp_path, card := Card(A))
    wait_for(lambda: card.readings > 5, 10)
    poller.close()
    wait_for(lambda: threading.active_count() <= before, 10)


# --- whether the engine can use them ----------------------------------------------------------------------


B = Gpu("GPU-b", 1, "RTX 3060")


class Engine:
    """What it answers, how often it was asked, and how long it takes."""

    def __init__(self, problem: str = "") -> None:
        self.problem = problem
        self.times = 0
        self.answers = threading.Event()
        self.answers.set()
        self.threads: set[str] = set()

    def can_use(self) -> str:
        self.times += 1
        self.threads.add(threading.current_thread().name)
        assert self.answers.wait(60)
        return self.problem


def readings_later(card: Card, count: int = 5) -> None:
    seen = card.readings
    wait_for(lambda: card.readings > seen + count, 10)


def test_an_engine_that_cannot_use_the_gpus_is_a_complaint_from_the_first_sight_of_them(tmp_path: Path):
    engine = Engine("the engine has no CUDA")
    engine.answers.clear()
    store, _ = polling(tmp_path, card := Card(), expected=lambda seen: "missed", can_use=engine.can_use)
    card.gpus = (A,)
    POLLERS[-1].read_now()
    wait_for(lambda: engine.times == 1, 10)
    assert store.gpus.gpus == ()
    assert store.gpus.as_of(time.monotonic() + 60).state is not GpuState.HUNG  # it is not NVML that is waited for
    engine.answers.set()
    wait_for(lambda: store.gpus.gpus == (A,), 10)
    assert (store.gpus.state, store.gpus.complaints) == (GpuState.OK, ("the engine has no CUDA",))
    assert store.gpus.at > time.monotonic() - 5
    readings_later(card)
    assert (engine.times, engine.threads) == (1, {"gpus"})
    assert store.gpus.complaints == ("the engine has no CUDA",)


def test_without_gpus_no_engine_is_asked(tmp_path: Path):
    polling(tmp_path, card := Card(), expected=lambda seen: "missed", can_use=(engine := Engine("none")).can_use)
    readings_later(card)
    assert engine.times == 0


def test_it_is_asked_again_when_other_gpus_are_there_which_are_shown_meanwhile(tmp_path: Path):
    """One that was asked while the driver was down knew no GPU: it must not be condemned for ever."""
    store, _ = polling(tmp_path, card := Card(A, B), can_use=(engine := Engine("none")).can_use)
    wait_for(lambda: store.gpus.engine_problem == "none", 10)
    engine.problem = ""
    engine.answers.clear()
    card.gpus = (A,)
    wait_for(lambda: engine.times == 2, 10)
    assert (store.gpus.gpus, store.gpus.engine_problem) == ((A,), "none")
    engine.answers.set()
    wait_for(lambda: store.gpus.complaints == (), 10)
    card.gpus = ()
    wait_for(lambda: store.gpus.gpus == (), 10)
    card.gpus = (A,)
    wait_for(lambda: store.gpus.gpus == (A,), 10)
    readings_later(card)
    assert engine.times == 3


def test_lost_gpus_are_not_the_engines_problem(tmp_path: Path):
    store, _ = polling(tmp_path, card := Card(A), can_use=Engine("none").can_use)
    wait_for(lambda: store.gpus.engine_problem == "none", 10)
    card.gpus = ()
    wait_for(lambda: store.gpus.gpus == (), 10)
    assert store.gpus.complaints == ("no GPU: no library; RTX 4090",)


def test_as_long_as_it_cannot_it_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workers.gpu.poller, "ASK_AGAIN_SECONDS", 0.05)
    store, _ = polling(tmp_path, card := Card(A), can_use=(engine := Engine("none")).can_use)
    wait_for(lambda: engine.times > 3, 10)
    engine.problem = ""
    wait_for(lambda: store.gpus.engine_problem == "", 10)
    times = engine.times
    readings_later(card, 10)
    assert engine.times == times


def test_a_bug_in_asking_ends_no_thread(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    def can_use() -> str:
        raise AssertionError("odd")

    store, _ = polling(tmp_path, Card(A), can_use=can_use)
    wait_for(lambda: store.gpus.state is GpuState.OK, 10)
    assert "AssertionError: odd" in caplog.text


# --- how old a snapshot may be --------------------------------------------------------------------------


def test_a_snapshot_is_good_until_some_polls_were_missed():
    snapshot = GpuSnapshot(GpuState.OK, at=100.0, gpus=(A,), poll_seconds=1.0)
    limit = 100.0 + LATE_POLLS * 1.0 + LATE_SECONDS
    assert snapshot.as_of(limit - 0.001) is snapshot
    late = snapshot.as_of(limit + 1)
    assert (late.state, late.gpus) == (GpuState.HUNG, (A,))
    assert late.complaints == ("NVML has not answered for 6 s; what is said of the GPUs is as old",)


@pytest.mark.parametrize("state", [GpuState.NO_LIBRARY, GpuState.NO_DRIVER, GpuState.NO_GPU, GpuState.FAILED])
def test_without_a_reason_to_expect_gpus_nothing_is_wrong(state: GpuState):
    assert GpuSnapshot(state, 0.0, problem="none").complaints == ()
    assert GpuSnapshot(state, 0.0, problem="none", expected="seen").complaints == ("no GPU: none; seen",)


def test_an_engine_without_cuda_is_a_complaint_and_makes_no_gpu_available():
    snapshot = GpuSnapshot(GpuState.OK, 0.0, (A,), engine_problem="the engine has no CUDA", poll_seconds=1.0)
    assert snapshot.complaints == ("the engine has no CUDA",)
    assert snapshot.as_of(60).complaints[1:] == ("the engine has no CUDA",)
    assert gpu_pool_status(snapshot)["gpu_available"] is False
    assert gpu_pool_status(replace(snapshot, engine_problem=""))["gpu_available"] is True


def test_each_lost_gpu_is_a_complaint():
    lost = MissingGpu("GPU-b", 1, "RTX 3060", "gone")
    snapshot = GpuSnapshot(GpuState.OK, 0.0, (A,), (lost,), poll_seconds=1.0)
    assert snapshot.complaints == ("GPU 1 (RTX 3060, GPU-b): gone",)
    assert len(snapshot.as_of(60).complaints) == 2
