"""What a reload of the configuration does to servers and waiting requests, as lists of events."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.entities.model import Model, Replicas
from app.entities.placement import PlacementConstraints
from app.entities.refusal import Reason
from app.entities.server import ServerState
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import Effect, Grant, Refuse, Spawn, Stop, StopReason
from app.use_cases.scheduling.limits import SchedulingLimits
from app.use_cases.scheduling.schedule import due_at
from tests.helpers.builders import Play, a_launch, a_model, a_placement_request

LIMITS = SchedulingLimits()
A = a_model("a")
CHANGED = replace(A, launch=a_launch(parallel=2, ctx_size=8192))


def reload(play: Play, *models: Model, at: float = 5.0, limits: SchedulingLimits = LIMITS) -> list[Effect]:
    waited_for = {waiter.model.name for waiter in play.state.waiting}
    requests = {model.name: a_placement_request(model.size_bytes) for model in models if model.name in waited_for}
    return play.post(ev.Reconfigured(limits, {model.name: model for model in models}, requests, at))


def states(play: Play) -> list[ServerState]:
    return [server.state for server in play.state.servers]


def a_play_with_a_stream() -> Play:
    play = Play()
    play.ask(A)
    play.post(ev.Ready(1, 9001, at=1.0))
    return play


@pytest.mark.parametrize(
    "same",
    [
        {},
        {"pin": True, "priority": 3, "ttl_seconds": 7.0, "aliases": ("other",)},
        {"replicas": Replicas(1, 3)},
        {"constraints": PlacementConstraints(cpu_when_full=True)},
    ],
)
def test_an_unchanged_model_keeps_its_server_which_gets_its_new_settings(same: dict[str, object]):
    play, model = a_play_with_a_stream(), replace(A, **same)  # type: ignore[arg-type]
    assert reload(play, model) == []
    assert states(play) == [ServerState.READY]
    assert play.state.servers[0].model == model
    assert play.post(ev.Release(1, at=6.0)) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"launch": a_launch(parallel=2, ctx_size=8192)},
        {"path": "/models/other.gguf"},
        {"created": 1},
        {"keep_kv_cache": True},
        {"constraints": PlacementConstraints(max_gpus=1)},
        None,
    ],
)
def test_a_server_whose_model_has_changed_or_is_gone_ends_after_its_streams(changes: dict[str, object] | None):
    play = a_play_with_a_stream()
    models = [] if changes is None else [replace(A, **changes)]  # type: ignore[arg-type]
    assert reload(play, *models) == []
    assert states(play) == [ServerState.DRAINING]
    assert play.post(ev.Release(1, at=60.0)) == [Stop(1, StopReason.DRAINED)]


def test_an_idle_server_whose_model_has_changed_ends_at_once_and_the_next_request_starts_the_new_one():
    play = Play()
    play.up(A)
    assert reload(play, CHANGED) == [Stop(1, StopReason.DRAINED)]
    assert play.ask(CHANGED, at=5.5) == []
    (spawn,) = play.post(ev.Exited(1, "", at=6.0))
    assert isinstance(spawn, Spawn) and spawn.server.model == CHANGED


def test_a_loading_server_with_old_settings_is_stopped_and_its_waiters_get_a_new_one():
    play = Play()
    play.ask(A)
    assert [type(effect) for effect in reload(play, CHANGED)] == [Stop]
    (spawn,) = play.post(ev.Exited(1, "", at=6.0))
    assert isinstance(spawn, Spawn) and spawn.server.model == CHANGED
    assert play.post(ev.Ready(2, 9002, at=7.0)) == [Grant(1, 2)]


def test_requests_that_wait_for_a_slot_of_a_changed_model_get_one_of_the_new_server():
    play = a_play_with_a_stream()
    for _ in range(2):
        play.ask(A)
    assert [waiter.ticket for waiter in play.state.waiting] == [3]
    reload(play, CHANGED)
    play.post(ev.Release(1, at=6.0), ev.Release(2, at=6.0))
    assert [type(effect) for effect in play.post(ev.Exited(1, "", at=7.0))] == [Spawn]
    assert play.post(ev.Ready(2, 9002, at=8.0)) == [Grant(3, 2)]


@pytest.mark.parametrize("models", [(), (CHANGED,)])
def test_waiting_requests_of_a_model_that_is_gone_or_cannot_be_served_are_rejected(models: tuple[Model, ...]):
    play = Play()
    play.ask(A)
    effects = play.post(ev.Reconfigured(LIMITS, {model.name: model for model in models}, {}, at=1.0))
    assert [effect.refusal.reason for effect in effects if isinstance(effect, Refuse)] == [Reason.UNLOADED]
    assert play.post(ev.Exited(1, "", at=2.0)) == []


def test_an_unload_that_waits_is_answered_although_its_model_is_gone():
    play = a_play_with_a_stream()
    play.ask(A, command=ev.Unload)
    assert reload(play) == []
    play.post(ev.Release(1, at=6.0))
    assert [type(effect).__name__ for effect in play.post(ev.Exited(1, "", at=7.0))] == ["Done"]


def test_a_server_that_was_drained_for_another_model_does_not_come_back_with_old_settings():
    play = a_play_with_a_stream()
    old = play.state.servers[0]
    play.state = replace(play.state, servers=(replace(old, state=ServerState.DRAINING, drained_for="b"),))
    reload(play, CHANGED)
    assert states(play) == [ServerState.DRAINING]
    assert play.state.servers[0].is_terminating


def test_fewer_replicas_than_run_end_and_the_least_needed_end_first():
    play = Play()
    several = replace(A, replicas=Replicas(3, 3))
    play.up(several)
    for _ in range(4):
        for server in play.state.servers:
            if server.state is ServerState.STARTING:
                play.post(ev.Ready(server.id, 9000 + server.id, at=1.0))
    assert states(play) == [ServerState.READY] * 3
    for _ in range(2):
        play.ask(several, at=2.0)
    play.post(ev.Release(2, at=3.0))  # of the oldest; the second one is still busy
    effects = reload(play, replace(A, replicas=Replicas(1, 1)))
    assert {effect.server for effect in effects if isinstance(effect, Stop)} == {1, 3}
    assert states(play) == [ServerState.STOPPING, ServerState.READY, ServerState.STOPPING]


def test_more_replicas_are_started_at_once():
    play = Play()
    play.up(A)
    assert [type(effect) for effect in reload(play, replace(A, replicas=Replicas(2, 2)))] == [Spawn]


def test_new_limits_apply_to_what_runs_already():
    play = Play()
    play.up(A)
    assert due_at(play.state) == 900.0
    reload(play, A, limits=replace(LIMITS, ttl_seconds=10.0))
    assert due_at(play.state) == 10.0
    assert play.post(ev.Tick(at=10.0)) == [Stop(1, StopReason.IDLE)]


def test_a_load_that_was_too_large_for_the_limits_starts_under_the_new_ones():
    play = Play(limits=replace(LIMITS, max_loaded=1))
    play.ask(A)
    play.post(ev.Ready(1, 9001, at=1.0))
    assert play.ask(a_model("b"), at=2.0) == []
    effects = reload(play, A, a_model("b"), limits=LIMITS)
    assert [effect.server.model.name for effect in effects if isinstance(effect, Spawn)] == ["b"]


def test_a_load_that_waits_for_a_protected_model_is_decided_anew_under_the_new_limits():
    play = Play(limits=replace(LIMITS, max_loaded=1, min_residency_seconds=10_000))
    play.up(A)
    for number in range(20):  # in frequent use
        play.ask(A, at=number)
        play.post(ev.Release(number + 2, at=number))
    b = a_model("b")
    assert play.ask(b, at=20.0) == []
    effects = reload(play, A, b, at=20.01, limits=replace(LIMITS, max_loaded=1, min_residency_seconds=0.0))
    assert effects == [Stop(1, StopReason.EVICTED, "for b")]


def test_a_waiting_request_has_its_models_new_priority():
    play = a_play_with_a_stream()
    for _ in range(2):
        play.ask(A)
    reload(play, replace(A, priority=7))
    assert [waiter.model.priority for waiter in play.state.waiting] == [7]


def test_a_model_with_corrected_settings_is_started_without_the_pause_of_its_failures():
    play = Play()
    for at in (1.0, 2.0):
        play.ask(A, at=at)
        play.post(ev.Exited(play.state.servers[0].id, "bad option", at=at))
    play.ask(A, at=2.1)
    assert play.state.waiting == () and play.state.failures
    reload(play, CHANGED, at=2.2)
    assert not play.state.failures and not play.state.backoffs
    assert [type(effect) for effect in play.ask(CHANGED, at=2.3)] == [Spawn]


def test_the_pause_of_a_model_that_fails_outlives_a_reload_of_other_settings():
    play = Play()
    for at in (1.0, 2.0):
        play.ask(A, at=at)
        play.post(ev.Exited(play.state.servers[0].id, "bad option", at=at))
    reload(play, A, at=2.2, limits=replace(LIMITS, ttl_seconds=1.0))
    assert play.state.failures and play.state.backoffs
