"""The pool's counters after short histories of events."""

from __future__ import annotations

from app.use_cases.scheduling import events as ev
from tests.helpers.builders import a_model
from tests.helpers.counted_play import CountedPlay
from workers.telemetry.pool_counts import PoolCounts


class Counted(CountedPlay):
    def __init__(self, **limits: float) -> None:
        super().__init__(PoolCounts, **limits)

    def value(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"llama_smart_proxy_{name}", labels) or 0.0


def test_a_load_its_duration_and_an_idle_stop_are_counted():
    play = Counted(ttl_seconds=10)
    play.ask(a_model())
    play.post(ev.Ready(1, 9001, at=3.0), ev.Release(1, at=4.0), ev.Tick(at=14.0), ev.Exited(1, "", at=14.5))
    assert play.value("server_starts_total", model="a", outcome="ready") == 1
    assert play.value("server_start_seconds_sum", model="a") == 3.0
    assert play.value("server_stops_total", model="a", reason="idle") == 1
    assert play.value("decisions_total", outcome="place") == 1


def test_failed_loads_and_crashed_servers_are_counted_separately():
    play = Counted()
    for at, outcome in enumerate(({}, {"could_not_spawn": True}, {"ran_out_of_memory": True})):
        play.ask(a_model(), at=float(at))
        play.post(ev.Exited(play.state.servers[0].id, "x", at + 0.5, **outcome))
    server = play.state.servers[0].id  # placed again after it ran out of memory
    play.post(ev.Ready(server, 9001, at=5.0), ev.Exited(server, "segfault", at=6.0))
    counts = {how: play.value("server_starts_total", model="a", outcome=how) for how in ("failed", "spawn_failed")}
    assert counts == {"failed": 1, "spawn_failed": 1}
    assert play.value("server_starts_total", model="a", outcome="out_of_memory") == 1
    assert play.value("server_stops_total", model="a", reason="crashed") == 1


def test_rejected_requests_are_counted_by_reason():
    play = Counted()
    play.ask(a_model(gib=40))
    assert play.value("requests_rejected_total", reason="model_does_not_fit") == 1
    assert play.value("decisions_total", outcome="refuse") == 1


def test_an_eviction_is_counted_as_a_stop():
    play = Counted()
    play.up(a_model("old", gib=10))
    play.ask(a_model("new", gib=10), at=5.0)
    assert play.value("server_stops_total", model="old", reason="room") == 1


def test_an_eviction_is_counted_and_an_idle_stop_is_none():
    play = Counted(ttl_seconds=10)
    play.up(a_model("old", gib=10))
    play.ask(a_model("new", gib=10), at=5.0)
    play.post(ev.Exited(1, "", at=5.5), ev.Ready(2, 9002, at=6.0), ev.Release(2, at=7.0), ev.Tick(at=60.0))
    assert play.value("server_stops_total", model="new", reason="idle") == 1
    assert play.value("evictions_total", model="old") == 1
    assert play.value("evictions_total", model="new") == 0
