"""Virtual names: which of their models answers."""

from __future__ import annotations

from collections.abc import Sequence

from app.entities.model import Model
from app.entities.placement import CpuFallback
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.alternatives import PASSED_OVER_SECONDS, by_availability, has_loaded
from app.use_cases.scheduling.limits import SchedulingLimits
from app.use_cases.scheduling.pool_state import Failure
from tests.helpers.builders import Play, a_model, a_placement_request, booked, replace

A, B, C = a_model("a", gib=4), a_model("b", gib=4), a_model("c", gib=4)
NOW = 100.0


def order(play: Play, models: Sequence[Model], now: float = NOW) -> str:
    requests = {model.name: a_placement_request(booked(model)) for model in models}
    return "".join(model.name for model in by_availability(play.state, models, requests, now))


def test_the_loaded_model_answers_wherever_it_is_in_the_list():
    play = Play()
    assert not has_loaded(play.state, [A, B, C])
    play.up(B)
    assert has_loaded(play.state, [A, B, C])
    assert order(play, [A, B, C])[0] == "b"
    assert by_availability(play.state, [A, B, C], {}, NOW)[0].name == "b", "no header is read for it"


def test_of_several_loaded_models_the_first_with_a_free_slot_answers():
    play = Play()
    play.up(A)
    play.up(B)
    assert order(play, [B, A]) == "ba"
    play.ask(A)
    assert order(play, [A, B]) == "ab", "it has a second slot"
    play.ask(A)
    assert order(play, [A, B]) == "ba"
    play.ask(B)
    play.ask(B)
    assert order(play, [A, B]) == "ab", "both are busy"


def test_a_model_that_loads_comes_before_one_that_would_have_to():
    play = Play()
    play.ask(B)
    assert order(play, [A, B]) == "ba"
    play.post(ev.Ready(1, 9001, 1.0))
    play.ask(C)
    assert order(play, [A, C, B]) == "bca"


def test_a_server_of_an_earlier_definition_does_not_count():
    play = Play()
    play.up(B)
    assert order(play, [A, replace(B, created=7)]) == "ab"


def test_the_first_that_fits_without_an_eviction_comes_before_others():
    play = Play(total_gib=16)
    play.up(a_model("other", gib=8))  # 9.2 of 16 GiB
    large, small = a_model("l", gib=8), a_model("s", gib=2)
    assert order(play, [large, small, A]) == "sla"
    assert order(play, [large, A, small]) == "als"


def test_without_one_that_fits_the_first_that_can_be_loaded_answers_and_one_that_never_fits_is_last():
    play = Play(total_gib=16)
    play.up(a_model("other", gib=12))
    giant = a_model("g", gib=40)
    assert order(play, [giant, A, B]) == "abg"


def test_a_model_whose_load_failed_is_passed_over_for_a_minute():
    play = Play()
    play.up(a_model("other", gib=1))
    play.state = replace(play.state, failures={"a": Failure("it crashed", NOW)})
    assert order(play, [A, B], NOW + 1) == "ba"
    assert order(play, [A, B], NOW + PASSED_OVER_SECONDS) == "ab"
    play.state = replace(play.state, failures={"a": Failure("it crashed", NOW), "b": Failure("it crashed", NOW)})
    assert order(play, [A, B], NOW + 1) == "ab", "nothing better is left"


def test_before_the_first_reading_the_list_decides_and_broken_models_are_last():
    play = Play()
    requests = {"b": a_placement_request(booked(B)), "c": a_placement_request(booked(C))}
    assert "".join(model.name for model in by_availability(play.state, [A, B, C], requests, NOW)) == "bca"


def test_without_a_gpu_a_model_for_the_cpu_comes_first():
    play = Play(SchedulingLimits(cpu_fallback=CpuFallback.NEVER))
    on_cpu = replace(a_placement_request(booked(B)), options=replace(a_placement_request(1).options, n_gpu_layers=0))
    requests = {"a": a_placement_request(booked(A)), "b": on_cpu}
    assert [model.name for model in by_availability(play.state, [A, B], requests, NOW)] == ["b", "a"]
