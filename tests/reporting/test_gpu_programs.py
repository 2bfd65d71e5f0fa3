"""Other processes on a GPU: all that NVML lists but our own."""

from __future__ import annotations

from app.entities.gpu import Gpu, GpuSnapshot, GpuState, Program
from app.entities.server import ServerState
from app.use_cases.reporting.gpu_programs import other_processes
from app.use_cases.scheduling.pool_state import PoolState
from tests.helpers.builders import MIB, a_model, a_server

SERVER = a_server(a_model("a"), 100 * MIB, pid=100, state=ServerState.READY, booked={"GPU-a": 100 * MIB})


def listed(
    programs: dict[int, Program], are_pids_shown: bool = True, **processes: dict[int, int | None]
) -> list[dict[str, object]]:
    gpu = Gpu("GPU-a", 0, "card", **processes)  # type: ignore[arg-type]
    snapshot = GpuSnapshot(GpuState.OK, 0.0, (gpu,), programs=programs)
    return other_processes(gpu, PoolState(servers=(SERVER,), gpus=snapshot, are_pids_shown=are_pids_shown))


def test_others_are_listed_by_size_those_of_unknown_size_last():
    programs = {7: Program("comfyui", 1), 8: Program("Xorg", 1), 9: Program("game", 1)}
    assert listed(programs, processes={7: 10, 100: 50, 9: None}, graphics_processes={8: 20, 9: None}) == [
        {"pid": 8, "name": "Xorg", "bytes": 20},
        {"pid": 7, "name": "comfyui", "bytes": 10},
        {"pid": 9, "name": "game", "bytes": None},
    ]


def test_an_engine_that_a_script_of_ours_runs_is_ours():
    assert listed({101: Program("llama-server", 100)}, processes={101: 50}) == []


def test_a_process_that_cannot_be_seen_has_no_name():
    assert listed({}, processes={7: 10}) == [{"pid": 7, "name": None, "bytes": 10}]


def test_where_nvml_lists_no_processes_there_are_none():
    assert listed({}) == []


def test_where_our_own_cannot_be_told_from_others_none_are_listed():
    """In a container NVML may list the pids of the host: 4711 may be our llama-server, and cron in the container."""
    programs = {4711: Program("cron", 1)}
    assert listed(programs, are_pids_shown=False, processes={4711: 100 * MIB}) == []


def test_an_engine_that_draws_or_that_a_script_runs_is_enough_to_tell_ours_from_others():
    """One that uses Vulkan is in NVML's list of graphics processes, if in any."""
    programs = {7: Program("comfyui", 1), 101: Program("llama-server", 100)}
    others = [{"pid": 7, "name": "comfyui", "bytes": 10}]
    assert listed(programs, are_pids_shown=False, processes={7: 10}, graphics_processes={100: 50}) == others
    assert listed(programs, are_pids_shown=False, processes={7: 10, 101: 50}) == others
