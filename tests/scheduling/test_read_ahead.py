"""Which file is read ahead while its load waits: only in RAM that nobody wants, and only while the disk is free."""

from __future__ import annotations

from app.entities.launch import LoadMode
from app.entities.memory import MemoryReading
from app.entities.server import ServerState
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.read_ahead import RESERVE_BYTES, FileAhead, file_to_read_ahead
from tests.helpers.builders import GIB, a_launch, a_model, replace
from tests.helpers.gpu_play import GpuPlay, Hardware, eight_layers

SIZE = GIB  # of each file


def a_waiting_load(**options: object) -> GpuPlay:
    """`b` waits for the GPU of `a`, which is in use. `options`: of b's launch."""
    play = GpuPlay(Hardware({"GPU-a": 6}))
    play.post(play.polled(at=-1.0))
    play.loaded("a", 0.0)
    play.request("a", 0.5)
    play.post(play.polled(at=0.9))
    model = replace(a_model("b"), launch=a_launch(**options))
    play.post(ev.Acquire(99, model, 1.0, 301.0, eight_layers()))
    assert play.state.server_of("b") is None
    return play


def with_ram(play: GpuPlay, gib: float) -> GpuPlay:
    play.state = replace(play.state, memory=MemoryReading(64 * GIB, int(gib * GIB), 1.0))
    return play


def test_the_file_of_a_waiting_load_is_read_ahead():
    assert file_to_read_ahead(a_waiting_load().state) == FileAhead("/models/b.gguf", SIZE)


def test_nothing_is_read_without_a_waiting_load():
    play = GpuPlay(Hardware({"GPU-a": 6}))
    play.post(play.polled(at=-1.0))
    assert file_to_read_ahead(play.state) is None
    play.loaded("a", 0.0)
    assert file_to_read_ahead(play.state) is None


def test_the_reading_ends_with_the_wait():
    play = a_waiting_load()
    play.post(ev.Cancel(99, 2.0))
    assert file_to_read_ahead(play.state) is None


def test_no_file_is_read_ahead_while_a_model_is_loaded():
    play = a_waiting_load()
    (server,) = play.state.servers
    loading = replace(server, id=7, state=ServerState.STARTING)
    assert file_to_read_ahead(replace(play.state, servers=(server, loading))) is None


def test_only_ram_that_nobody_wants_is_used():
    """What the load needs, were it all RAM, and a reserve are left."""
    play = a_waiting_load()
    (load,) = play.state.evaluation.decided
    kept = (load.decision.needed_bytes + RESERVE_BYTES) / GIB
    assert file_to_read_ahead(with_ram(play, kept + 3).state) == FileAhead("/models/b.gguf", SIZE)
    half = file_to_read_ahead(with_ram(play, kept + 0.5).state)
    assert half and abs(half.size_bytes - GIB / 2) < 1024
    assert file_to_read_ahead(with_ram(play, kept).state) is None


def test_a_file_that_is_read_past_the_page_cache_is_not_read_ahead():
    assert file_to_read_ahead(a_waiting_load(load_mode=LoadMode.DIRECT).state) is None
    assert file_to_read_ahead(a_waiting_load(load_mode=LoadMode.READ).state) is not None


def test_nothing_is_read_where_gpus_use_ram():
    play = a_waiting_load()
    (gpu,) = play.state.gpus.gpus
    shared = replace(gpu, is_unified=True, total_bytes=64 * GIB, free_bytes=60 * GIB)
    play.state = replace(play.state, gpus=replace(play.state.gpus, gpus=(shared,)))
    assert file_to_read_ahead(play.state) is None


def test_a_service_that_ends_reads_nothing():
    play = a_waiting_load()
    assert file_to_read_ahead(replace(play.state, draining=True)) is None
