"""Memory reports in llama-server's log. The lines were printed by llama.cpp b11434."""

from __future__ import annotations

import json

import pytest

from app.entities.memory import Confidence, DeviceMemory, Estimate
from tests.helpers.builders import MIB
from workers.measurement.memory_report import EngineReport, Loaded

PROJECTED, MEASURED = ("as its llama-server projected it",), ("as measured when it was loaded",)

# qwen2.5-0.5b Q4_K_M on a CPU that repacks weights, as xllamacpp 2026.10.11549 logs it.
CPU_TABLE = """\
0.00.252.267 I common_params_fit_impl: getting device memory data for initial parameters:
0.00.252.354 I common_memory_breakdown_print: | memory breakdown [MiB] | total   free    self   model   context   compute    unaccounted |
0.00.252.369 I common_memory_breakdown_print: |   - Host               |                  434 =   345 +      48 +      41                |
0.00.252.369 I common_memory_breakdown_print: |   - CPU_REPACK         |                   28 =    28 +       0 +       0                |
0.00.263.509 I common_params_fit_impl: projected to use 434 MiB of host memory vs. 24105 MiB of total host memory
"""  # noqa: E501
CPU_BUFFERS = """\
0.01.147.076 I load_tensors:   CPU_Mapped model buffer size =   373.50 MiB
0.01.147.092 I load_tensors:   CPU_REPACK model buffer size =    28.25 MiB
0.01.171.940 I llama_context:        CPU  output buffer size =     2.25 MiB
0.01.172.011 I llama_kv_cache:        CPU KV buffer size =    48.00 MiB
0.01.192.125 I sched_reserve:        CPU compute buffer size =    41.25 MiB
"""
GPU_TABLE = """\
common_memory_breakdown_print: |   - CUDA0 (RTX 4090)   | 24576 = 23485 + (1090 =   762 +     256 +      72) +  0 |
common_memory_breakdown_print: |   - CUDA1 (RTX 4090)   | 24576 = 23485 + ( 513 =   400 +     100 +      12) +  0 |
common_memory_breakdown_print: |   - Host               |                    215 =   205 +       0 +       9       |
"""


def row(name: str, own: int, model: int, context: int, compute: int) -> dict[str, object]:
    kind = "host" if name == "Host" else "device"
    return {"kind": kind, "name": name, "self": own, "model": model, "context": context, "compute": compute}


def breakdown(*rows: dict[str, object]) -> str:
    return json.dumps({"type": "fit_memory_breakdown", "data": {"unit": "MiB", "rows": rows}})


def memory(weights: float, context: float, compute: float, margin: float = 0) -> DeviceMemory:
    return DeviceMemory(*(int(mib * MIB) for mib in (weights, context, compute, 0, margin)))


def need(host: DeviceMemory, *devices: DeviceMemory, notes: tuple[str, ...] = PROJECTED) -> Estimate:
    return Estimate(devices, host, Confidence.MEASURED, notes)


def read(*texts: str, in_json: bool = False) -> EngineReport:
    report = EngineReport(in_json)
    for line in "\n".join(texts).splitlines():
        report.read(line)
    return report


def test_a_projection_is_complete_with_the_line_after_its_table():
    report = EngineReport()
    assert [report.read(line) for line in CPU_TABLE.splitlines()] == [False] * 4 + [True]
    # 345 + 28 weights; 434 is 345 + 48 + 41 and their fractions, at most one MiB more; the same holds for 28
    assert report.projected == need(memory(373, 48, 41, margin=2))


def test_a_projection_in_json_is_complete_at_once():
    report = EngineReport(in_json=True)
    line = breakdown(row("CUDA0", 1091, 762, 256, 72), row("Host", 216, 205, 0, 10))
    assert report.read(line)
    # 1091 - 762 - 256 - 72 = 1 MiB of fractions, and the fraction of the sum
    assert report.projected == need(memory(205, 0, 10, margin=2), memory(762, 256, 72, margin=2))


def test_table_and_json_of_one_breakdown_are_not_added():
    line = breakdown(row("CUDA0", 1090, 762, 256, 72), row("Host", 215, 205, 0, 9))
    report = read(GPU_TABLE, "done request: GET /health 503", line, in_json=True)
    assert report.projected == need(memory(205, 0, 9, margin=2), memory(762, 256, 72, margin=1))


def test_a_table_interrupted_by_another_threads_line_is_read_completely():
    *first, last, end = CPU_TABLE.splitlines()
    report = read(*first, "0.00.252.360 I srv  done request: GET /health 127.0.0.1 503", last, end)
    assert report.projected == read(CPU_TABLE).projected


def test_devices_keep_their_order():
    report = read(GPU_TABLE, "common_params_fit_impl: projected to use ...")
    assert report.projected.devices == (memory(762, 256, 72, margin=1), memory(400, 100, 12, margin=2))


def test_a_draft_models_breakdown_is_added():
    main = breakdown(row("CUDA0", 1090, 762, 256, 72), row("Host", 215, 205, 0, 10))
    draft = breakdown(row("CUDA0", 130, 100, 20, 10), row("Host", 40, 40, 0, 0))
    assert read(main, draft, in_json=True).projected == need(
        memory(245, 0, 10, margin=2), memory(862, 276, 82, margin=2)
    )


def test_the_weights_of_a_draft_head_in_the_models_file_are_not_added_again():
    main = breakdown(row("CUDA0", 1090, 762, 256, 72), row("Host", 215, 205, 0, 10))
    head = breakdown(row("CUDA0", 792, 762, 20, 10), row("Host", 205, 205, 0, 0))
    assert read(main, head, in_json=True).projected == need(
        memory(205, 0, 10, margin=2), memory(762, 276, 82, margin=2)
    )


def test_the_breakdown_at_exit_is_ignored():
    report = read(CPU_BUFFERS)
    assert not report.read(breakdown(row("Host", 434, 345, 48, 41)))
    assert report.projected is None


def test_a_projector_is_added_to_the_models_device():
    line = "srv    load_model: [mtmd] estimated worst-case memory usage of mmproj is 1103.50 MiB (took 45.25 ms)"
    assert read(line, CPU_TABLE).projected.host == memory(373 + 1103.5, 48, 41, margin=2)
    on_gpu = read(line, breakdown(row("CUDA0", 1090, 762, 256, 72), row("Host", 215, 205, 0, 10)), in_json=True)
    assert on_gpu.projected.devices == (memory(762 + 1103.5, 256, 72, margin=1),)
    assert (on_gpu.knows_projector, read(CPU_TABLE).knows_projector) == (True, False)


def test_buffers_are_added_and_the_mapped_file_counts_as_projected():
    """The mapping spans the file of 373.5 MiB; 345 to 346 stay in use, the rest was copied and repacked."""
    loaded = read(CPU_TABLE, CPU_BUFFERS).loaded()
    mapped = 373 + 2 - 28.25
    assert loaded == Loaded(
        need(memory(mapped + 28.25, 48, 41.25 + 2.25), notes=MEASURED),
        unmapped_bytes=int((28.25 + 48 + 41.25 + 2.25) * MIB),
    )


def test_the_prefix_of_a_line_may_be_incomplete():
    """xllamacpp's engine prints its state from another thread, between a log line's time and its text."""
    whole = read(CPU_BUFFERS).loaded()
    for cut in ("I load_tensors:   CPU_Mapped", "load_tensors:   CPU_Mapped", "0.01.1 load_tensors:   CPU_Mapped"):
        lines = [
            cut + line.split("CPU_Mapped")[1] if "CPU_Mapped" in line else line for line in CPU_BUFFERS.splitlines()
        ]
        assert read(*lines).loaded() == whole


def test_without_a_projection_the_whole_mapped_file_counts():
    assert read(CPU_BUFFERS).loaded().need.host == memory(373.5 + 28.25, 48, 43.5)


def test_two_caches_of_a_device_are_added_and_the_last_graph_size_counts():
    lines = """\
load_tensors:        CUDA0 model buffer size =   762.50 MiB
llama_context:  CUDA_Host  output buffer size =     2.00 MiB
llama_kv_cache:      CUDA0 KV buffer size =   256.00 MiB
llama_kv_cache:      CUDA0 KV buffer size =    16.00 MiB
llama_memory_recurrent:      CUDA0 RS buffer size =     8.00 MiB
sched_reserve:      CUDA0 compute buffer size =    72.00 MiB
sched_reserve:  CUDA_Host compute buffer size =     9.00 MiB
sched_reserve:      CUDA0 compute buffer size =    80.00 MiB"""
    assert read(lines).loaded().need == need(memory(0, 0, 11), memory(762.5, 280, 80), notes=MEASURED)


def test_the_graph_of_a_draft_model_is_added():
    main = CPU_BUFFERS
    draft = "\n".join(line for line in CPU_BUFFERS.splitlines() if "compute" in line or "output" in line)
    assert read(main, draft).loaded().need.host.compute_bytes == 2 * int(43.5 * MIB)


def test_a_projectors_graph_is_not_counted_twice():
    lines = (
        "[mtmd] estimated worst-case memory usage of mmproj is 100.00 MiB (took 45.25 ms)",
        CPU_BUFFERS,
        "0.02.995.383 I reserve_compute_meta:        CPU compute buffer size =   322.49 MiB",
    )
    assert read(*lines).loaded().need.host.compute_bytes == int(43.5 * MIB)


def test_an_unused_device_keeps_its_index():
    lines = "load_tensors: CUDA1 model buffer size = 1.00 MiB\nsched_reserve: CUDA1 compute buffer size = 2.00 MiB"
    assert read(lines).loaded().need.devices == (memory(0, 0, 0), memory(1, 0, 2))


def test_an_incomplete_report_is_none():
    assert read("load_tensors:        CUDA0 model buffer size =   852.89 MiB").loaded() is None
    assert read("sched_reserve:        CUDA0 compute buffer size =   85.89 MiB").loaded() is None
    assert read("main: model loaded").loaded() is None


def test_malformed_reports_are_ignored():
    for line in (
        '{"type": "fit_memory_breakdown"',
        '{"type": "fit_memory_breakdown", "data": {"rows": [{"name": "CUDA0"}]}}',
        '{"type": "fit_memory_breakdown", "data": {"rows": 7}}',
        "[" * 100_000 + "fit_memory_breakdown",
        "common_memory_breakdown_print: |   - Host |",
        "load_tensors: CUDA0 model buffer size = MiB",
    ):
        assert not read(line, "end").read("end"), line
        assert read(line).projected is None


@pytest.mark.parametrize(
    "line",
    [
        "llama_model_loader: - kv  26: a: CPU KV buffer size=99999999MiB u32 = 1",
        "llama_model_loader: - kv  26: worst-case memory usage of mmproj is 99999999 MiB u32 = 1",
        "llama_model_loader: - kv  26: memory_breakdown_print: | - Host | 9 = 1 + 1 + 1 | u32 = 1",
        'print_info: general.name = {"type":"fit_memory_breakdown"}',
        breakdown(row("Host", 9, 9, 0, 0)),  # not from an engine that logs plain text
        "load_tensors: CUDA0 model buffer size = 1.2.3 MiB",
        "load_tensors: CUDA0 model buffer size = ... MiB",
        f"load_tensors: CUDA0 model buffer size = {'9' * 400} MiB",
        f"common_memory_breakdown_print: | - Host | {'9' * 4301} = 1 + 1 + 1 |",
    ],
)
def test_text_from_model_files_and_impossible_sizes_are_ignored(line: str):
    report = read(line, "end of a table")
    assert (report.projected, report.loaded(), report.knows_projector) == (None, None, False)


@pytest.mark.parametrize("figure", [-1, 10**9, 1e999, "9", None, True])
def test_a_projection_with_impossible_sizes_is_none(figure: object):
    rows = breakdown({"kind": "host", "name": "Host", "self": 1, "model": figure, "context": 1, "compute": 1})
    assert read(rows, "[" * 5000, in_json=True).projected is None


def test_the_number_of_devices_is_limited():
    report = read(
        "load_tensors: B3000000 model buffer size = 1.00 MiB", "sched_reserve: B1 compute buffer size = 1 MiB"
    )
    assert len(report.loaded().need.devices) == 2
