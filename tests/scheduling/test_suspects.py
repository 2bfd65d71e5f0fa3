"""Requests that end a server: those in flight run alone the next time, and one that ends it again is refused."""

from __future__ import annotations

from signal import SIGSEGV

from app.entities.frozen import replace
from app.entities.model import Replicas
from app.entities.refusal import Reason
from app.errors import error_for
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import Effect, Grant, Refuse, Spawn
from app.use_cases.scheduling.limits import SchedulingLimits
from app.use_cases.scheduling.suspects import EXCLUSIVE_SECONDS, MAX_SUSPECTS, SUSPECTED_SECONDS
from tests.helpers.builders import Play, a_model, a_placement_request, booked

ONE = Replicas()
LIMITS = SchedulingLimits(max_wait_seconds=100)  # a request is starving after 40


class Service(Play):
    """One model with two slots; requests are named by their hash."""

    def __init__(self, replicas: Replicas = ONE) -> None:
        super().__init__(LIMITS)
        self.model = replace(a_model(slots=2), replicas=replicas)
        self.tickets: dict[str, int] = {}

    def send(self, request_hash: str, at: float, key: str = "") -> list[Effect]:
        self._ticket += 1
        self.tickets[request_hash] = self._ticket
        needed = a_placement_request(booked(self.model), self.model.constraints)
        command = ev.Acquire(self._ticket, self.model, at, at + 100, needed, key=key, request_hash=request_hash)
        effects = self.post(command)
        for effect in effects:
            if isinstance(effect, Spawn):
                effects += self.post(ev.Ready(effect.server.id, 9001, at))
        return effects

    def end(self, request_hash: str, at: float, ending: ev.Ending = ev.Ending.COMPLETE) -> list[Effect]:
        return self.post(ev.Release(self.tickets[request_hash], at, ending))

    def crash(self, at: float) -> list[Effect]:
        """The server ends; a new one is ready at once if a request waits."""
        effects = self.post(ev.Exited(self.state.servers[0].id, "ended by SIGSEGV", at, exit_code=-SIGSEGV))
        for effect in effects:
            if isinstance(effect, Spawn):
                effects += self.post(ev.Ready(effect.server.id, 9001, at))
        return effects

    def running(self) -> set[str]:
        held = {ticket for server in self.state.servers for ticket in server.leases}
        return {name for name, ticket in self.tickets.items() if ticket in held}


def refused(effects: list[Effect]) -> list[Reason]:
    return [effect.refusal.reason for effect in effects if isinstance(effect, Refuse)]


def crashed_with(*names: str) -> Service:
    """A service whose server ended at 1 with these in flight."""
    service = Service()
    for name in names:
        service.send(name, at=0.0)
    service.crash(at=1.0)
    return service


def test_after_a_crash_each_request_in_flight_runs_alone_and_others_together():
    service = crashed_with("killer", "innocent")
    service.send("killer", at=2.0)
    service.send("other", at=2.0)
    assert service.running() == {"killer"}
    service.end("killer", at=3.0)
    assert service.running() == {"other"}
    service.send("innocent", at=4.0)
    assert service.running() == {"other"}
    service.end("other", at=5.0)
    assert service.running() == {"innocent"}


def test_a_request_that_ends_a_server_alone_is_refused_for_an_hour_and_the_others_are_answered():
    service = crashed_with("killer", "innocent")
    service.send("killer", at=2.0)
    service.send("other", at=2.0)
    service.crash(at=3.0)
    assert service.running() == {"other"}, "on a new server, at once"
    (effect,) = service.send("killer", at=63.0)
    assert isinstance(effect, Refuse) and effect.refusal.reason is Reason.CRASHES_ENGINE
    error = error_for(effect.refusal)
    assert (error.status, error.code, error.headers["x-should-retry"]) == (422, "request_crashes_engine", "false")
    assert str(error).endswith("it is refused for another 59 min")
    service.end("other", at=64.0)
    service.send("innocent", at=65.0)
    assert service.running() == {"innocent"}
    assert not refused(service.send("killer", at=3.0 + SUSPECTED_SECONDS + 1))


def test_a_request_that_was_answered_alone_is_no_longer_suspect():
    service = crashed_with("innocent")
    service.send("innocent", at=2.0)
    service.end("innocent", at=3.0)
    assert not service.state.suspects
    service.send("innocent", at=4.0)
    service.send("other", at=4.0)
    assert service.running() == {"innocent", "other"}


def test_a_client_that_disconnects_before_the_crash_is_found_all_the_same():
    service = crashed_with("killer")
    service.send("killer", at=2.0)
    service.end("killer", at=2.1, ending=ev.Ending.ABORTED_WHILE_SILENT)
    service.send("other", at=2.2)
    assert service.running() == set(), "the engine may still work on it"
    service.crash(at=2.3)
    assert service.running() == {"other"}
    assert refused(service.send("killer", at=3.0)) == [Reason.CRASHES_ENGINE]


def test_a_crash_after_an_abandoned_request_was_gone_does_not_blame_it():
    service = Service()
    service.send("gone", at=0.0)
    service.end("gone", at=0.1, ending=ev.Ending.ABORTED_WHILE_SILENT)
    service.post(ev.ServerChecked(1, busy=0, requested_at=2.0, at=2.0))
    service.send("killer", at=3.0)
    service.crash(at=4.0)
    assert service.state.suspects.keys() == {"killer"}


def test_an_answered_request_is_no_suspect_of_a_crash_by_an_abandoned_one():
    """While the slot of one was counted as taken, all that were answered meanwhile stayed in flight."""
    service = Service()
    service.send("killer", at=0.0, key="k")
    service.send("answered", at=0.0, key="a")
    service.end("killer", at=0.1, ending=ev.Ending.ABORTED_WHILE_SILENT)
    service.end("answered", at=0.2)
    service.send("not sent", at=0.3, key="b")
    service.end("not sent", at=0.4, ending=ev.Ending.NOT_SENT)
    service.crash(at=0.5)
    assert service.state.suspects.keys() == {"killer"}
    assert service.state.crashes["a"][-1].keys == {"k"}


def test_a_starving_suspect_holds_others_back_until_the_server_is_empty():
    service = crashed_with("suspect")
    service.send("long", at=2.0)
    service.send("suspect", at=3.0)
    service.send("early", at=4.0)
    assert service.running() == {"long", "early"}, "it does not hold others back at once"
    service.end("early", at=5.0)
    service.send("late", at=3.0 + 40)
    assert service.running() == {"long"}
    service.end("long", at=50.0)
    assert service.running() == {"suspect"}
    service.end("suspect", at=51.0)
    assert service.running() == {"late"}


def test_a_suspect_that_runs_for_long_shares_its_server_again():
    service = crashed_with("suspect")
    service.send("suspect", at=2.0)
    service.send("other", at=3.0)
    service.post(ev.Tick(2.0 + EXCLUSIVE_SECONDS))
    assert service.running() == {"suspect", "other"}
    service.crash(at=70.0)
    assert not any(suspect.is_refused for suspect in service.state.suspects.values())


def test_a_death_while_idle_or_at_start_is_the_models():
    service = Service()
    service.send("first", at=0.0)
    service.end("first", at=0.5)
    service.crash(at=1.0)
    assert not service.state.suspects and service.state.backoffs
    service.post(ev.Tick(at=2.0))
    service.send("second", at=3.0)


def test_suspects_are_bounded():
    service = Service()
    for number in range(MAX_SUSPECTS + 5):
        service.send(f"r{number}", at=float(number))
        service.crash(at=number + 0.5)
    assert len(service.state.suspects) == MAX_SUSPECTS
    assert "r0" not in service.state.suspects


def test_a_request_without_a_hash_is_never_suspect():
    service = crashed_with("")
    assert not service.state.suspects
    assert [type(effect) for effect in service.send("", at=2.0)] == [Spawn, Grant]
