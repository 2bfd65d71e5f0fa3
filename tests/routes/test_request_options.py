"""Request options: how long the model stays loaded, and how much context there is."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest

from app.entities.launch import ModelOptions
from app.errors import InvalidRequest
from app.request_body.options import keep_alive_seconds, requested_context
from app.use_cases.placement.contexts import max_request_tokens
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.limits import SchedulingLimits
from app.use_cases.scheduling.pool_state import PoolState
from app.use_cases.scheduling.schedule import due_at
from tests.helpers.builders import Play, a_model, a_placement_request, replace
from tests.helpers.service import wait_for
from tests.scheduling.test_schedule import stopped
from tests.service.test_faults import error_of, faulty


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (300.0, 300), ("300", 300), ("5m", 300), ("1h30m", 5400), ("1.5h", 5400), ("250ms", 0.25), (0.0, 0), ("0s", 0),
        (-1.0, math.inf), ("-1m", math.inf), ("-1", math.inf), (None, None),
    ],
)  # fmt: skip
def test_keep_alive_accepts_seconds_and_durations(value: object, seconds: float | None):
    assert keep_alive_seconds([("keep_alive", value)]) == seconds
    assert keep_alive_seconds([("ttl", value)]) == seconds


@pytest.mark.parametrize("value", ["soon", "5 m", "m5", "", True, (), math.nan, "1h30"])
def test_other_values_are_rejected(value: object):
    with pytest.raises(InvalidRequest, match="keep_alive"):
        keep_alive_seconds([("keep_alive", value)])


def test_a_long_value_is_rejected_without_being_parsed():
    """It would hold Python's lock for a time that grows with the square of it: 5 s at these 20,000 characters."""
    began = time.process_time()
    with pytest.raises(InvalidRequest, match="keep_alive"):
        keep_alive_seconds([("keep_alive", "1" * 20_000 + "x")])
    assert time.process_time() - began < 0.2


def test_context_may_be_requested_in_two_places():
    assert requested_context([("num_ctx", 8192.0)]) == 8192
    assert requested_context([("options", (("seed", 1.0), ("num_ctx", 4096.0)))]) == 4096
    for odd in ([("num_ctx", "x")], [("num_ctx", True)], [("options", [1.0, 2.0])], [("options", (1.0,))], []):
        assert requested_context(odd) is None


def test_the_last_requests_keep_alive_decides_when_an_idle_server_stops():
    play = Play(SchedulingLimits(ttl_seconds=100))
    for _ in range(2):
        play.ask(a_model())
    play.post(ev.Ready(1, 9001, at=0.0), ev.Release(1, at=1.0, keep_alive_seconds=5.0))
    play.post(ev.Release(2, at=2.0, keep_alive_seconds=30.0))
    assert due_at(play.state) == 32.0
    play.ask(a_model(), at=3.0)
    play.post(ev.Release(3, at=4.0))
    assert due_at(play.state) == 104.0, "this request has no keep_alive"
    play.ask(a_model(), at=5.0)
    play.post(ev.Release(4, at=6.0, keep_alive_seconds=math.inf))
    assert stopped(play.post(ev.Tick(at=1e6))) == []
    assert due_at(own_time(keep_alive_seconds=None)) == 1.0 + 5.0
    assert due_at(own_time(keep_alive_seconds=30.0)) == 1.0 + 30.0, "it comes before what the model's settings say"
    play.ask(a_model(), at=1e6 + 1)
    assert stopped(play.post(ev.Release(5, at=1e6 + 2, keep_alive_seconds=0.0))) == [1], "at once"


def own_time(keep_alive_seconds: float | None) -> PoolState:
    """Of a model that stays for five seconds; its last answer ended at 1.0."""
    play = Play()
    play.ask(replace(a_model(), ttl_seconds=5.0))
    play.post(ev.Ready(1, 9001, at=0.5), ev.Release(1, at=1.0, keep_alive_seconds=keep_alive_seconds))
    return play.state


@pytest.mark.integration
def test_a_request_says_how_long_its_model_stays(tmp_path: Path):
    with faulty(tmp_path, FAKE_PORT_ZERO=1) as service:
        assert service.chat("m", keep_alive="1h").status_code == 200
        assert service.chat("m", keep_alive=0).status_code == 200
        wait_for(lambda: not service.servers(), 10)
        refused = service.chat("m", keep_alive="soon")
        assert (refused.status_code, error_of(refused)["param"]) == (400, "keep_alive")
        assert 'write it like 300 or "5m"' in str(error_of(refused)["message"])


@pytest.mark.integration
def test_less_context_than_there_is_is_fine_and_more_is_refused_with_the_numbers(tmp_path: Path):
    with faulty(tmp_path, {"DEFAULTS__CTX_SIZE": "4096"}, FAKE_PORT_ZERO=1) as service:
        assert service.chat("m", num_ctx=2048).status_code == 200
        assert service.chat("m", options={"num_ctx": 4096}).status_code == 200
        refused = service.chat("m", num_ctx=8192)
        assert (refused.status_code, error_of(refused)["param"]) == (400, "num_ctx")
        value = "num_ctx 8192: m is never loaded with more than 4096 tokens of context"
        assert value in str(error_of(refused)["message"])
        assert service.servers()[0]["requests"] == 0


@pytest.mark.parametrize("settings", [{}, {"DEFAULTS__CTX_SIZE": "4096"}])
@pytest.mark.integration
def test_more_context_than_a_model_is_ever_loaded_with_loads_nothing(tmp_path: Path, settings: dict[str, str]):
    """Of itself a model has the longest of four contexts; the memory of this machine does not matter."""
    with faulty(tmp_path, {"DEFAULTS__CTX_SIZE": "auto"} | settings, FAKE_PORT_ZERO=1) as service:
        refused = service.chat("m", num_ctx=40_000)
        assert (refused.status_code, error_of(refused)["code"]) == (400, "context_length_exceeded")
        assert service.servers() == [] and "spawn server=" not in service.output
        assert service.chat("m", num_ctx=4096).status_code == 200


def test_a_slot_that_has_its_own_cells_has_its_share_of_the_context():
    options = ModelOptions(ctx_size=8192, parallel=4, kv_unified=False)
    assert max_request_tokens(replace(a_placement_request(1), options=options)) == 2048
    assert max_request_tokens(replace(a_placement_request(1), options=replace(options, kv_unified=True))) == 8192


@pytest.mark.integration
def test_a_model_may_be_loaded_at_the_start(tmp_path: Path):
    config = tmp_path / "config.yaml"
    config.write_text("models: {m: {preload: true}, missing: {preload: true, path: nowhere.gguf}}")
    with faulty(tmp_path, {"CONFIG": str(config)}, FAKE_PORT_ZERO=1) as service:
        wait_for(lambda: [each["state"] for each in service.servers()] == ["ready"], 20)
        wait_for(lambda: "not preloaded model=missing" in service.output, 5)
