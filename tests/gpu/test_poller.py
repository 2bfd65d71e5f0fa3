"""The poller: who reads, how often, and what is known of the GPUs when NVML hangs."""

from __future__ import annotations

import datetime
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import workers.gpu.engine_check
import workers.gpu.poller
from app.entities.gpu import OVERDUE_POLLS, OVERDUE_SECONDS, Gpu, GpuSnapshot, GpuState, MissingGpu
from app.use_cases.placement.engine_gpus import EngineProbe
from app.use_cases.reporting.gpu_report import gpu_pool_status
from app.use_cases.scheduling.pool_state import PoolState
from tests.helpers.service import wait_for
from workers.gpu.expected_gpus import GpuHistory
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
    expected: Callable[[GpuHistory], str] = GpuHistory.names,
    engine_problem: Callable[[], str] = lambda: "",
    engine_build: Callable[[], str] = lambda: "",
) -> tuple[StateStore, GpuPoller]:
    store = StateStore(PoolState())

    def publish(snapshot: GpuSnapshot) -> None:
        store.pool = replace(store.pool, gpus=snapshot)

    history = GpuHistory(folder / "gpus.json")

    def probe(gpus: Sequence[Gpu], _: Callable[[], None]) -> EngineProbe:
        return EngineProbe(engine_problem())

    poller = GpuPoller(
        card.read, publish, history, 0.02, expected=expected, ask_engine=probe, engine_build=engine_build
    )
    poller.start()
    POLLERS.append(poller)
    wait_for(lambda: store.gpus.state is not GpuState.UNREAD or not card.answers.is_set(), 10)
    return store, poller


def test_gpus_are_read_repeatedly(tmp_path: Path):
    card = Card(A)
    store, _ = polling(tmp_path, card)
    first = store.gpus
    assert (first.gpus, first.problems) == ((A,), ())
    wait_for(lambda: card.readings > 5 and store.gpus.at > first.at, 10)


def test_a_machine_without_gpus_is_read_once_and_needs_no_scheduler(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    store, poller = polling(tmp_path, card := Card())
    wait_for(lambda: "no NVIDIA GPU: no library" in caplog.text, 10)
    time.sleep(0.3)  # fifteen polls
    assert card.readings == 1
    assert store.gpus.problems == ()
    assert store.gpus.as_of(time.monotonic() + 10_000).state is GpuState.NO_LIBRARY  # none is due
    card.gpus = (A,)
    poller.read_now()
    wait_for(lambda: store.gpus.gpus == (A,) and card.readings > 5, 10)  # polled from now on


def test_a_machine_without_gpus_does_not_import_the_scheduler(tmp_path: Path):
    code = (
        "import sys, time; from pathlib import Path; from tests.gpu.test_poller import Card, polling\n"
        f"store, _ = polling(Path({str(tmp_path)!r}), Card()); time.sleep(.2)\n"
        "print(store.gpus.state, 'apscheduler' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.split() == ["no_library", "False"]


def test_expected_gpus_that_are_missing_are_reported_and_polled_for(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    card = Card()
    store, _ = polling(tmp_path, card, expected=lambda history: "there is one on the bus")
    assert store.gpus.problems == ("no GPU: no library; there is one on the bus",)
    card.gpus = (A,)
    wait_for(lambda: store.gpus.gpus == (A,), 10)
    assert (store.gpus.problems, store.gpus.expected) == ((), "")


def test_what_was_seen_once_is_missed_in_the_next_life(tmp_path: Path):
    polling(tmp_path, Card(A))
    wait_for((tmp_path / "gpus.json").exists, 10)
    store, _ = polling(tmp_path, Card())
    assert store.gpus.problems == ("no GPU: no library; RTX 4090",)


def test_while_a_reading_hangs_no_other_is_started_and_its_result_ends_the_hang(tmp_path: Path):
    """A driver may hold a call for minutes."""
    card = Card(A)
    store, _ = polling(tmp_path, card)
    wait_for(lambda: card.readings > 3, 10)
    card.answers.clear()
    before = threading.active_count()
    wait_for(lambda: store.gpus.as_of(time.monotonic() + OVERDUE_SECONDS).state is GpuState.HUNG, 10)
    readings = card.readings
    time.sleep(0.3)
    assert (card.readings, threading.active_count()) == (readings, before)
    card.answers.set()
    wait_for(lambda: card.readings > readings + 3 and store.gpus.as_of(time.monotonic()).state is GpuState.OK, 10)


def test_a_hang_is_logged_once_by_another_thread(tmp_path: Path, caplog: pytest.LogCaptureFixture):
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


def test_the_first_reading_may_hang(tmp_path: Path):
    card = Card(A)
    card.answers.clear()
    store, _ = polling(tmp_path, card)
    now = time.monotonic()
    assert (store.gpus.state, store.gpus.as_of(now).problems) == (GpuState.UNREAD, ())
    assert store.gpus.as_of(now + 60).state is GpuState.HUNG
    card.answers.set()
    wait_for(lambda: store.gpus.gpus == (A,), 10)


def test_polling_continues_when_the_wall_clock_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """APScheduler uses the wall clock: its job does not run until the old time is reached again."""
    monkeypatch.setattr(GpuPoller, "_request_reading", lambda poller: None)
    polling(tmp_path, card := Card(A))
    wait_for(lambda: card.readings > 5, 10)


def test_polls_missed_while_the_clock_jumped_are_not_caught_up():
    """400 days of them, listed one by one, took 3 GiB and a core for minutes."""
    from apscheduler.schedulers.background import BackgroundScheduler

    from workers.gpu.poll_trigger import PollTrigger

    scheduler = BackgroundScheduler(timezone=datetime.UTC)
    scheduler.start(paused=True)
    job = scheduler.add_job(print, PollTrigger(1.0))
    later = job.next_run_time + datetime.timedelta(days=400)
    assert job._get_run_times(later) == [job.next_run_time]
    assert job.trigger.get_next_fire_time(job.next_run_time, later) == later + datetime.timedelta(seconds=1)
    scheduler.shutdown()


def test_a_bug_makes_the_state_failed_until_the_next_good_reading(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    card = Card(A)
    store, _ = polling(tmp_path, card)
    card.bug = AssertionError("odd")
    wait_for(lambda: store.gpus.state is GpuState.FAILED, 10)
    assert store.gpus.problems == ("no GPU: internal error: odd; RTX 4090",)
    card.bug = None
    wait_for(lambda: store.gpus.state is GpuState.OK, 10)
    assert caplog.text.count("Traceback") >= 1


def test_a_closed_poller_reads_no_more_and_leaves_no_thread(tmp_path: Path):
    before = threading.active_count()
    _, poller = polling(tmp_path, card := Card(A))
    wait_for(lambda: card.readings > 5, 10)
    poller.close()
    wait_for(lambda: threading.active_count() <= before, 10)


# --- GPUs that sleep ------------------------------------------------------------------------------------------


def sleeping(folder: Path, card: Card, may_sleep: Callable[[float], bool]) -> tuple[StateStore, GpuPoller, list[str]]:
    """`closings`: names of the threads that closed NVML."""
    store, closings = StateStore(PoolState()), list[str]()

    def publish(snapshot: GpuSnapshot) -> None:
        store.pool = replace(store.pool, gpus=snapshot)

    def close_nvml() -> None:
        closings.append(threading.current_thread().name)

    history = GpuHistory(folder / "gpus.json")
    poller = GpuPoller(
        *(card.read, publish, history, 0.02), expected=GpuHistory.names, may_sleep=may_sleep, close_nvml=close_nvml
    )
    poller.start()
    POLLERS.append(poller)
    return store, poller, closings


def test_gpus_that_may_sleep_are_closed_and_not_read_until_a_reading_is_requested(tmp_path: Path):
    from apscheduler.schedulers.base import STATE_PAUSED, STATE_RUNNING

    may = threading.Event()
    store, poller, closings = sleeping(tmp_path, card := Card(A), lambda now: may.is_set())
    wait_for(lambda: card.readings > 3, 10)
    assert closings == []
    may.set()
    wait_for(lambda: store.gpus.state is GpuState.ASLEEP, 10)
    readings, threads = card.readings, threading.active_count()
    time.sleep(0.3)  # fifteen polls
    assert (card.readings, closings) == (readings, ["gpus"])
    assert (store.gpus.gpus, store.gpus.problems) == ((A,), ())
    assert store.gpus.as_of(time.monotonic() + 10_000).state is GpuState.ASLEEP, "no reading is overdue"
    assert poller._scheduler is not None and poller._scheduler.state == STATE_PAUSED, "no thread wakes up for a poll"
    may.clear()
    poller.read_now()
    wait_for(lambda: store.gpus.state is GpuState.OK and card.readings > readings + 3, 10)
    assert (poller._scheduler.state, threading.active_count()) == (STATE_RUNNING, threads)


def test_without_a_use_they_fall_asleep_again_after_one_reading(tmp_path: Path):
    store, poller, closings = sleeping(tmp_path, card := Card(A), lambda now: card.readings > 1)
    wait_for(lambda: store.gpus.state is GpuState.ASLEEP, 10)
    readings = card.readings
    poller.read_now()
    wait_for(lambda: len(closings) == 2 and store.gpus.state is GpuState.ASLEEP, 10)
    assert card.readings == readings + 1


def test_a_reading_requested_while_nvml_is_being_closed_is_made(tmp_path: Path):
    store, poller, _ = sleeping(tmp_path, card := Card(A), lambda now: False)
    wait_for(lambda: card.readings > 1, 10)
    poller._close_nvml, poller._may_sleep = poller.read_now, lambda now: card.readings == readings
    readings = card.readings
    wait_for(lambda: card.readings > readings + 1, 10)
    assert store.gpus.state is GpuState.OK


def test_gpus_that_were_lost_in_their_sleep_are_polled_for_after_waking(tmp_path: Path):
    may = threading.Event()
    store, poller, _ = sleeping(tmp_path, card := Card(A), lambda now: may.is_set() and store.gpus.state is GpuState.OK)
    wait_for(lambda: store.gpus.state is GpuState.OK, 10)
    may.set()
    wait_for(lambda: store.gpus.state is GpuState.ASLEEP, 10)
    card.gpus = ()
    poller.read_now()
    wait_for(lambda: store.gpus.problems == ("no GPU: no library; RTX 4090",), 10)
    readings_later(card)
    may.clear()
    card.gpus = (A,)
    wait_for(lambda: store.gpus.state is GpuState.OK, 10)


def test_a_sleeping_poller_can_be_closed(tmp_path: Path):
    before = threading.active_count()
    store, poller, _ = sleeping(tmp_path, card := Card(A), lambda now: card.readings > 0)
    wait_for(lambda: store.gpus.state is GpuState.ASLEEP, 10)
    poller.close()
    wait_for(lambda: threading.active_count() <= before, 10)


# --- whether the engine can use the GPUs ----------------------------------------------------------------------


B = Gpu("GPU-b", 1, "RTX 3060")


class Engine:
    """What a probe finds, how many there were, and how long one takes."""

    def __init__(self, problem: str = "") -> None:
        self.problem = problem
        self.probes = 0
        self.answers = threading.Event()
        self.answers.set()
        self.threads: set[str] = set()

    def problem_now(self) -> str:
        self.probes += 1
        self.threads.add(threading.current_thread().name)
        assert self.answers.wait(60)
        return self.problem


def readings_later(card: Card, count: int = 5) -> None:
    seen = card.readings
    wait_for(lambda: card.readings > seen + count, 10)


def test_an_engine_that_cannot_use_the_gpus_is_reported_with_the_first_snapshot_of_them(tmp_path: Path):
    engine = Engine("the engine has no CUDA")
    engine.answers.clear()
    store, _ = polling(tmp_path, card := Card(), expected=lambda history: "missed", engine_problem=engine.problem_now)
    card.gpus = (A,)
    POLLERS[-1].read_now()
    wait_for(lambda: engine.probes == 1, 10)
    assert store.gpus.gpus == ()
    assert store.gpus.as_of(time.monotonic() + 60).state is not GpuState.HUNG  # it waits for the probe
    engine.answers.set()
    wait_for(lambda: store.gpus.gpus == (A,), 10)
    assert (store.gpus.state, store.gpus.problems) == (GpuState.OK, ("the engine has no CUDA",))
    assert store.gpus.at > time.monotonic() - 5
    readings_later(card)
    assert (engine.probes, engine.threads) == (1, {"gpus"})
    assert store.gpus.problems == ("the engine has no CUDA",)


def test_without_gpus_the_engine_is_not_probed(tmp_path: Path):
    polling(
        tmp_path,
        card := Card(),
        expected=lambda history: "missed",
        engine_problem=(engine := Engine("none")).problem_now,
    )
    readings_later(card)
    assert engine.probes == 0


def test_the_engine_is_probed_again_after_a_change_of_gpus_which_are_published_meanwhile(tmp_path: Path):
    """An engine probed while the driver was down saw no GPU: that verdict must not last."""
    store, _ = polling(tmp_path, card := Card(A, B), engine_problem=(engine := Engine("none")).problem_now)
    wait_for(lambda: store.gpus.engine_problem == "none", 10)
    engine.problem = ""
    engine.answers.clear()
    card.gpus = (A,)
    wait_for(lambda: engine.probes == 2, 10)
    assert (store.gpus.gpus, store.gpus.engine_problem) == ((A,), "none")
    engine.answers.set()
    wait_for(lambda: store.gpus.problems == (), 10)
    card.gpus = ()
    wait_for(lambda: store.gpus.gpus == (), 10)
    card.gpus = (A,)
    wait_for(lambda: store.gpus.gpus == (A,), 10)
    readings_later(card)
    assert engine.probes == 3


def test_another_engine_is_probed_and_loads_wait_for_the_result(tmp_path: Path):
    build, answers, states = ["a"], threading.Event(), list[GpuState]()
    answers.set()

    def probe() -> str:
        states.append(store.gpus.state if states else GpuState.UNREAD)
        assert answers.wait(60)
        return f"the engine {build[0]} has no CUDA"

    store, _ = polling(tmp_path, Card(A), engine_problem=probe, engine_build=lambda: build[0])
    wait_for(lambda: store.gpus.engine_problem == "the engine a has no CUDA", 10)
    answers.clear()
    build[0] = "b"
    wait_for(lambda: len(states) == 2, 10)
    assert (store.gpus.state, store.gpus.gpus, store.gpus.overdue_at) == (GpuState.UNREAD, (A,), None)
    answers.set()
    wait_for(lambda: store.gpus.engine_problem == "the engine b has no CUDA", 10)
    assert (store.gpus.state, states) == (GpuState.OK, [GpuState.UNREAD, GpuState.UNREAD])


def test_lost_gpus_are_not_reported_as_an_engine_problem(tmp_path: Path):
    store, _ = polling(tmp_path, card := Card(A), engine_problem=Engine("none").problem_now)
    wait_for(lambda: store.gpus.engine_problem == "none", 10)
    card.gpus = ()
    wait_for(lambda: store.gpus.gpus == (), 10)
    assert store.gpus.problems == ("no GPU: no library; RTX 4090",)


def test_an_engine_that_cannot_use_the_gpus_is_probed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workers.gpu.engine_check, "RETRY_SECONDS", 0.05)
    store, _ = polling(tmp_path, card := Card(A), engine_problem=(engine := Engine("none")).problem_now)
    wait_for(lambda: engine.probes > 3, 10)
    engine.problem = ""
    wait_for(lambda: store.gpus.engine_problem == "", 10)
    probes = engine.probes
    readings_later(card, 10)
    assert engine.probes == probes


def test_the_engine_is_probed_again_when_a_load_used_no_gpu(tmp_path: Path):
    store, poller = polling(tmp_path, card := Card(A), engine_problem=(engine := Engine("")).problem_now)
    readings_later(card)
    assert engine.probes == 1
    engine.problem = "none"
    poller.probe_engine()
    wait_for(lambda: store.gpus.engine_problem == "none", 10)


def test_a_bug_in_the_probe_does_not_end_the_thread(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    def engine_problem() -> str:
        raise AssertionError("odd")

    store, _ = polling(tmp_path, Card(A), engine_problem=engine_problem)
    wait_for(lambda: store.gpus.state is GpuState.OK, 10)
    assert "AssertionError: odd" in caplog.text


# --- the age of a snapshot --------------------------------------------------------------------------


def test_a_snapshot_is_valid_until_some_polls_were_missed():
    snapshot = GpuSnapshot(GpuState.OK, at=100.0, gpus=(A,), poll_seconds=1.0)
    limit = 100.0 + OVERDUE_POLLS * 1.0 + OVERDUE_SECONDS
    assert snapshot.as_of(limit - 0.001) is snapshot
    late = snapshot.as_of(limit + 1)
    assert (late.state, late.gpus) == (GpuState.HUNG, (A,))
    assert late.problems == ("NVML has not responded for 6 s; GPU data is that old",)


@pytest.mark.parametrize("state", [GpuState.NO_LIBRARY, GpuState.NO_DRIVER, GpuState.NO_GPU, GpuState.FAILED])
def test_missing_gpus_that_are_not_expected_are_no_complaint(state: GpuState):
    assert GpuSnapshot(state, 0.0, problem="none").problems == ()
    assert GpuSnapshot(state, 0.0, problem="none", expected="seen").problems == ("no GPU: none; seen",)


def test_an_engine_without_cuda_is_a_complaint_and_makes_no_gpu_available():
    snapshot = GpuSnapshot(GpuState.OK, 0.0, (A,), engine_problem="the engine has no CUDA", poll_seconds=1.0)
    assert snapshot.problems == ("the engine has no CUDA",)
    assert snapshot.as_of(60).problems[1:] == ("the engine has no CUDA",)
    assert gpu_pool_status(snapshot)["gpu_available"] is False
    assert gpu_pool_status(replace(snapshot, engine_problem=""))["gpu_available"] is True


def test_each_lost_gpu_is_a_complaint():
    lost = MissingGpu("GPU-b", 1, "RTX 3060", "gone")
    snapshot = GpuSnapshot(GpuState.OK, 0.0, (A,), (lost,), poll_seconds=1.0)
    assert snapshot.problems == ("GPU 1 (RTX 3060, GPU-b): gone",)
    assert len(snapshot.as_of(60).problems) == 2
