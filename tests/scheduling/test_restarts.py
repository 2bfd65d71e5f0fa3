"""Prompt caches of spare RAM: what becomes of the servers that have one when another model needs it."""

from __future__ import annotations

from dataclasses import replace

from app.entities.launch import AUTO_PROMPT_CACHE as AUTO
from app.entities.launch import ModelOptions
from app.entities.memory import Confidence, DeviceMemory, Estimate
from app.entities.model import Model
from app.entities.placement import CPU
from app.entities.server import Server, ServerState
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import Effect, Spawn, Stop, StopReason
from tests.helpers.builders import GIB, Play, a_model, tiny_shape
from tests.scheduling.test_schedule import spawned, stopped

CONTEXT = GIB


class CachePlay(Play):
    """16 GiB of RAM; models with `prompt_cache: auto`."""

    def request(self, name: str, gib: float, at: float, pin: bool = False, cache: int = AUTO) -> list[Effect]:
        self._ticket += 1
        model, request = a_caching_model(name, pin, cache), a_caching_request(gib, cache)
        return self.post(ev.Acquire(self._ticket, model, at, at + 300.0, request))

    def loaded(self, name: str, gib: float, at: float, pin: bool = False, cache: int = AUTO) -> Server:
        """Its server, which is idle."""
        (server,) = [effect.server for effect in self.request(name, gib, at, pin, cache) if isinstance(effect, Spawn)]
        self.post(ev.Ready(server.id, 9000 + server.id, at), ev.Release(self._ticket, at))
        return server

    @property
    def held_gib(self) -> dict[int, float]:
        """Ready servers hold what was booked but for the prompt cache, which is empty."""
        return {s.id: (s.booked[CPU] - s.placement.prompt_cache_bytes) / GIB for s in self.state.servers if s.port}


def a_caching_model(name: str, pin: bool, cache: int) -> Model:
    model = a_model(name)
    options = replace(model.launch.options, prompt_cache=cache)
    return replace(model, launch=replace(model.launch, options=options), pin=pin)


def a_caching_request(gib: float, cache: int) -> PlacementRequest:
    def estimate(options: ModelOptions, gpus: tuple[str, ...]) -> Estimate:
        return Estimate((), DeviceMemory(int(gib * GIB) - CONTEXT, CONTEXT), Confidence.EXACT)

    return PlacementRequest(tiny_shape(), ModelOptions(ctx_size=4096, prompt_cache=cache), estimate)


def cache_gib(server: Server) -> float:
    return server.placement.prompt_cache_bytes / GIB


def test_an_idle_server_is_started_again_with_less_when_its_cache_is_wanted():
    """Both fit without the cache: neither is evicted, and the second starts as soon as the first has ended."""
    play = CachePlay()
    first = play.loaded("a", 8, at=0.0)
    assert cache_gib(first) == 1  # an eighth of 8 GiB
    effects = play.request("b", 7.5, at=100.0)
    assert effects == [Stop(first.id, StopReason.PROMPT_CACHE, "for b")]
    assert spawned(play.post(ev.Exited(first.id, "", at=101.0))) == ["b", "a"]
    again = play.state.server_of("a")
    assert again is not None and cache_gib(again) < 0.1
    play.post(ev.Ready(again.id, 9009, at=102.0))
    assert play.state.restarts == {}


def test_a_busy_server_is_waited_for_and_nobody_else_is_evicted():
    play = CachePlay()
    first = play.loaded("a", 4, at=0.0)
    play.loaded("idle", 2, at=1.0, cache=0)
    play.request("a", 4, at=90.0)
    assert stopped(play.request("b", 9.5, at=100.0)) == []
    assert play.decided[-1].decision.reason.startswith("waiting for a ")
    effects = play.post(ev.Release(3, at=110.0))
    assert stopped(effects) == [first.id]


def test_a_pinned_server_is_started_again_too():
    play = CachePlay()
    first = play.loaded("a", 8, at=0.0, pin=True)
    assert stopped(play.request("b", 7.5, at=100.0)) == [first.id]
    play.post(ev.Exited(first.id, "", at=101.0))
    assert play.state.server_of("a") is not None


def test_a_server_is_not_started_again_while_the_service_ends():
    play = CachePlay()
    first = play.loaded("a", 8, at=0.0)
    play.request("b", 7.5, at=100.0)
    play.post(ev.Drain(at=100.5))
    assert spawned(play.post(ev.Exited(first.id, "", at=101.0))) == []


def test_a_server_that_a_request_has_loaded_again_is_not_started_twice():
    play = CachePlay()
    first = play.loaded("a", 8, at=0.0)
    play.request("b", 7.5, at=100.0)
    play.request("a", 8, at=100.5)
    play.post(ev.Exited(first.id, "", at=101.0))
    assert [server.model.name for server in play.state.servers] == ["b", "a"]
    assert play.state.restarts == {}


def test_the_cache_stays_booked_when_the_engine_reports_what_it_needs():
    play = CachePlay()
    (server,) = [e.server for e in play.request("a", 8, at=0.0) if isinstance(e, Spawn)]
    play.post(ev.Projected(server.id, {CPU: 7 * GIB}, at=0.5))
    assert play.state.servers[0].booked == {CPU: 8 * GIB}
    play.post(ev.Ready(server.id, 9001, at=1.0), ev.Measured(server.id, {CPU: 6 * GIB}, at=1.5))
    assert play.state.servers[0].booked == {CPU: 7 * GIB}
    assert play.state.servers[0].reported_bytes == 6 * GIB


def test_no_start_is_aborted_for_its_spare_cache():
    """It needs all the RAM, and the cache has got some of that: more than was estimated fits only without."""
    play = CachePlay()
    (server,) = [e.server for e in play.request("a", 8, at=0.0) if isinstance(e, Spawn)]
    assert stopped(play.post(ev.Projected(server.id, {CPU: 16 * GIB}, at=0.5))) == []


def test_what_a_cache_may_still_take_is_not_free_for_others():
    """A reading does not show it: the cache fills while the server answers."""
    play = CachePlay()
    server = play.loaded("a", 8, at=0.0)
    play.request("b", 1, at=50.0)  # reads RAM
    assert play.state.servers[0].least_held_bytes == 8 * GIB
    assert play.state.servers[0].unfilled_cache_bytes(int(8.25 * GIB)) == server.placement.prompt_cache_bytes * 3 // 4
    assert play.state.server_of("a").state is ServerState.READY  # type: ignore[union-attr]
