"""Keys whose requests crash servers with another body each time: from the third crash on they run alone."""

from __future__ import annotations

from app.entities.frozen import replace
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.quarantine import MIN_CRASHES, QUARANTINE_SECONDS, quarantined_keys
from tests.helpers.builders import a_placement_request, booked
from tests.scheduling.test_suspects import LIMITS, Service


def crashed(*neighbors: str, times: int = MIN_CRASHES) -> Service:
    """A service after crashes a minute apart, each with another body of the key `killer` and one of a neighbor's."""
    service = Service()
    for number in range(times):
        at = 60.0 * number
        service.send(f"body {number}", at, key="killer")
        service.send(f"question {number}", at, key=neighbors[number % len(neighbors)])
        service.crash(at + 1)
    return service


def quarantined(service: Service, at: float) -> set[str]:
    return set(quarantined_keys(service.state, service.model, at))


def test_a_key_that_was_in_each_of_the_last_crashes_runs_alone():
    service = crashed("a", "b", "c")
    assert quarantined(service, 130.0) == {"killer"}
    service.send("another body", at=130.0, key="killer")
    service.send("question", at=130.0, key="a")
    assert service.running() == {"another body"}
    service.crash(at=135.0)
    assert service.running() == {"question"}, "it was not hit, and is on a new server at once"


def test_two_crashes_are_not_enough():
    service = crashed("a", "b", times=MIN_CRASHES - 1)
    service.send("another body", at=130.0, key="killer")
    service.send("question", at=130.0, key="a")
    assert service.running() == {"another body", "question"}


def test_an_innocent_key_that_was_always_there_is_free_after_the_next_crash():
    service = crashed("busy")
    assert quarantined(service, 130.0) == {"killer", "busy"}
    service.send("another body", at=130.0, key="killer")
    service.crash(at=131.0)
    assert quarantined(service, 132.0) == {"killer"}


def test_a_quarantine_ends_after_a_quiet_period():
    service = crashed("a", "b", "c")
    last = 60.0 * (MIN_CRASHES - 1) + 1
    assert quarantined(service, last + QUARANTINE_SECONDS - 1) == {"killer"}
    assert not quarantined(service, last + QUARANTINE_SECONDS)


def test_crashes_far_apart_make_no_quarantine():
    service = crashed("a", times=MIN_CRASHES - 1)
    at = QUARANTINE_SECONDS + 2
    service.send("body", at, key="killer")
    service.crash(at + 1)
    assert not quarantined(service, at + 2)


def test_the_only_key_that_uses_a_model_is_not_in_quarantine_nor_anybody_without_keys():
    """Its own requests would wait for each other, and nobody else is protected."""
    assert not quarantined(crashed("killer"), 130.0)
    service = Service()
    for number in range(MIN_CRASHES):
        service.send(f"body {number}", at=float(number))
        service.crash(number + 0.5)
    assert not quarantined(service, 5.0)


def test_a_key_that_others_wait_behind_is_in_quarantine():
    service = Service()
    for number in range(MIN_CRASHES):
        at = 10.0 * number
        service.send(f"body {number}", at, key="killer")
        service.send(f"body {number}, again", at, key="killer")
        service.send(f"question {number}", at, key="a")
        service.crash(at + 1)
        service.end(f"question {number}", at + 2)
    assert quarantined(service, 30.0) == {"killer"}


def test_a_load_and_changed_settings_end_a_quarantine():
    service = crashed("a", "b", "c")
    other = replace(service.model, created=1)
    assert not quarantined_keys(service.state, other, 130.0)
    state = service.state
    service.post(ev.Reconfigured(LIMITS, {"a": service.model}, {}, at=130.0))
    assert service.state.crashes
    service.post(ev.Reconfigured(LIMITS, {"a": other}, {}, at=131.0))
    assert not service.state.crashes
    service.state = state
    service.post(ev.Load(99, service.model, 130.0, 200.0, a_placement_request(booked(service.model))))
    assert not quarantined(service, 130.0)


def test_another_engine_ends_a_quarantine():
    service = crashed("a", "b", "c")
    service.post(ev.EngineReplaced(at=130.0))
    assert not quarantined(service, 130.0)
