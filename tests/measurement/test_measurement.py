"""Measurement of one load: events posted and rows remembered, from the log and the memory of the process."""

from __future__ import annotations

from pathlib import Path

import pytest

import workers.measurement.measurement
from app.entities.launch import LaunchSettings
from app.entities.placement import CPU
from app.use_cases.scheduling import events as ev
from tests.helpers.builders import MIB, a_model, a_server, an_engine, replace
from tests.measurement.test_memory_report import breakdown, row
from workers.measurement.history import History
from workers.measurement.measurement import Measurement
from workers.measurement.model_history import BASE_BYTES, HOST, start_of

PROJECTION = breakdown(row("Host", 999, 900, 90, 9))
BUFFERS = """\
load_tensors:   CPU_Mapped model buffer size =   900.00 MiB
llama_context:        CPU  output buffer size =     2.00 MiB
llama_kv_cache:        CPU KV buffer size =    90.00 MiB
sched_reserve:        CPU compute buffer size =     9.00 MiB""".splitlines()
PID = 7


class Case:
    def __init__(
        self,
        folder: Path,
        booked_mib: int,
        mmproj: str | None = None,
        on_gpu: bool = False,
        unified: tuple[str, ...] = (),
        logs_json: bool = True,
    ) -> None:
        model = replace(a_model(), launch=LaunchSettings(mmproj=mmproj))
        self.start, self.history = start_of(model, an_engine()), History(folder / "history.sqlite3")
        self.posted: list[ev.Event] = []
        server = a_server(model, booked_mib * MIB)
        if on_gpu:
            placement = replace(server.placement, uuids=("GPU-a",), unified=unified)
            server = a_server(model, booked_mib * MIB, placement=placement)
        self.measurement = Measurement(server, self.start, self.history, self.posted.append, logs_json)

    @property
    def posted_mib(self) -> list[tuple[type, float]]:
        return [(type(event), event.needs[CPU] / MIB) for event in self.posted]  # type: ignore[union-attr]


@pytest.fixture
def held_mib(monkeypatch: pytest.MonkeyPatch):
    """The RAM of the process before and after the load, in MiB."""
    held = [20, 130]
    monkeypatch.setattr(
        workers.measurement.measurement,
        "process_bytes",
        lambda pid: held.pop(0) * MIB if len(held) > 1 else held[0] * MIB,
    )
    return held


def test_projection_and_measurement_are_posted(tmp_path: Path, held_mib: list[int]):
    case = Case(tmp_path, booked_mib=500)
    case.measurement.read([PROJECTION], PID)
    # 999, at most one more by rounding, and the assumed base of a process
    assert case.posted_mib == [(ev.Projected, 1000 + BASE_BYTES / MIB)]
    assert case.history.estimate(case.start).booked_bytes == 1000 * MIB + BASE_BYTES
    case.measurement.read(BUFFERS, PID)
    case.measurement.finish(PID)
    # 900 + 90 + 9 + 2 of buffers; of the 130 MiB of the process, 101 are buffers other than the mapped file
    assert case.posted_mib[1:] == [(ev.Measured, 1001 + 29)]
    assert case.history.of_model("", "id").overheads[HOST] == 29 * MIB


def test_untouched_buffers_do_not_reduce_the_overhead(tmp_path: Path, held_mib: list[int]):
    held_mib[:] = [20, 60]
    case = Case(tmp_path, booked_mib=500)
    case.measurement.read([PROJECTION, *BUFFERS], PID)
    case.measurement.finish(PID)
    assert case.posted_mib[1:] == [(ev.Measured, 1001 + 20)]


@pytest.mark.parametrize(("booked_mib", "is_confirmed"), [(1062, False), (1063, True), (1066, True), (1073, False)])
def test_a_booking_within_the_rounding_is_confirmed(
    tmp_path: Path, held_mib: list[int], booked_mib: int, is_confirmed: bool
):
    """999 MiB and 64, in whole MiB and without outputs: the difference must not change a booking of measured bytes."""
    case = Case(tmp_path, booked_mib)
    case.measurement.read([PROJECTION], PID)
    assert case.posted_mib == [(ev.Projected, booked_mib if is_confirmed else 1064)]


def test_a_projection_that_confirms_a_measurement_does_not_replace_it(tmp_path: Path, held_mib: list[int]):
    first = Case(tmp_path, booked_mib=500)
    first.measurement.read([PROJECTION, *BUFFERS], PID)
    first.measurement.finish(PID)
    measured = first.history.estimate(first.start)
    second = Case(tmp_path, booked_mib=measured.booked_bytes // MIB)
    second.history.remember(second.start, measured)
    second.measurement.read([PROJECTION], PID)
    assert second.history.estimate(second.start) == measured
    assert second.posted_mib == [(ev.Projected, measured.booked_bytes / MIB)]


def test_an_incomplete_report_is_not_posted(tmp_path: Path, held_mib: list[int]):
    """The model has a projector, which this build does not report."""
    case = Case(tmp_path, booked_mib=500, mmproj="/models/mmproj.gguf")
    case.measurement.read([PROJECTION, *BUFFERS], PID)
    case.measurement.finish(PID)
    assert case.posted == []
    assert case.history.estimate(case.start) is None


def test_memory_that_nvml_reports_beyond_the_buffers_is_overhead(tmp_path: Path, held_mib: list[int]):
    case = Case(tmp_path, booked_mib=500, on_gpu=True)
    case.measurement.read([line.replace("CPU_Mapped", "CUDA0").replace(" CPU ", " CUDA0 ") for line in BUFFERS], PID)
    case.measurement.finish(PID, nvml_bytes={0: 1450 * MIB})
    (device,) = case.history.estimate(case.start).devices
    assert device.overhead_bytes == (1450 - 1001) * MIB
    (measured,) = case.posted
    assert isinstance(measured, ev.Measured) and measured.needs["GPU-a"] == 1450 * MIB


@pytest.mark.parametrize("counted_mib", [0, 1001])
def test_buffers_of_a_gpu_that_is_ram_are_booked_once_whether_or_not_the_process_counts_them(
    tmp_path: Path, held_mib: list[int], counted_mib: int
):
    held_mib[:] = [130 + counted_mib]
    case = Case(tmp_path, booked_mib=500, on_gpu=True, unified=("GPU-a",))
    case.measurement.read([line.replace("CPU_Mapped", "CUDA0").replace(" CPU ", " CUDA0 ") for line in BUFFERS], PID)
    case.measurement.finish(PID)
    (measured,) = case.posted
    assert isinstance(measured, ev.Measured) and measured.needs[CPU] == 130 * MIB


def test_a_report_of_ram_alone_adds_nothing_about_gpus(tmp_path: Path, held_mib: list[int]):
    case = Case(tmp_path, booked_mib=500, on_gpu=True)
    case.measurement.read([PROJECTION, *BUFFERS], PID)
    case.measurement.finish(PID)
    assert (case.posted, case.history.estimate(case.start)) == ([], None)


@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_table_in_which_the_row_of_a_gpu_was_cut_proves_no_use_of_the_cpu(
    on_gpu: bool, tmp_path: Path, held_mib: list[int]
):
    case = Case(tmp_path, booked_mib=1019, on_gpu=True, logs_json=False)
    table = "common_memory_breakdown_print: |   - "
    lines = [f"{table}CUDA0 (RTX 40", f"{table}Host               |                  999 =   900 +      90 +       9 |"]
    case.measurement.read([*lines, "I load_model: loading"], PID)
    assert not case.measurement.reports_no_gpu
    case.measurement.read([line.replace("CPU_Mapped", "CUDA0") if on_gpu else line for line in BUFFERS], PID)
    assert case.measurement.reports_no_gpu is not on_gpu
