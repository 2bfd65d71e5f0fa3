"""bench.scheduling: the simulation is correct, and the scheduler's behaviour in short runs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from bench.scheduling.arrivals import KINDS, Request, offered_load, trace
from bench.scheduling.bound import least_loads
from bench.scheduling.clairvoyant import Clairvoyant
from bench.scheduling.machines import MACHINES, MODELS, SLOTS, Machine, Subject
from bench.scheduling.ours import LIMITS, Ours
from bench.scheduling.peers import PEERS
from bench.scheduling.verdict import verdict

ONE, TWO, FIVE = MACHINES
POLICIES = {"ours": Ours, **PEERS}


def of_size(machine: Machine, gib: float, number: int = 0) -> Subject:
    """One of the machine's models, near this size."""
    return sorted(machine.models, key=lambda each: abs(each.gpu_bytes / 1024**3 - gib))[number]


def asked(*constraints: tuple[float, Subject], seconds: float = 1.0) -> tuple[Request, ...]:
    return tuple(Request(number, at, subject, seconds) for number, (at, subject) in enumerate(constraints))


@pytest.mark.parametrize("policy", POLICIES)
def test_one_request_waits_for_its_load_and_no_longer(policy: str):
    subject = of_size(ONE, 10)
    result = POLICIES[policy](ONE, asked((5.0, subject))).run()
    assert result.waits == [pytest.approx(subject.load_seconds, abs=0.01)]
    assert (result.loads, result.load_gpu_seconds) == (1, subject.load_seconds)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_request_of_every_trace_is_served(policy: str, kind: str):
    requests = trace(kind, TWO, 0.7, 60)
    result = POLICIES[policy](TWO, requests).run()
    assert len(result.waits) == 60 and min(result.waits) >= 0
    assert result.loads >= len({each.subject for each in requests})


@pytest.mark.parametrize("machine", MACHINES, ids=lambda each: each.name)
def test_each_machine_has_thirty_models_that_fit_it(machine: Machine):
    assert len(set(machine.models)) == MODELS
    assert max(each.gpu_bytes for each in machine.models) < machine.bytes


def test_a_trace_has_the_requested_load_and_is_reproducible():
    first, second = (trace("sessions", FIVE, 0.6, 200) for _ in range(2))
    assert first == second
    assert offered_load(list(first), FIVE) == pytest.approx(0.6, rel=0.01)


def test_no_policy_has_fewer_loads_than_the_bound_for_its_worst_wait():
    for kind in KINDS:
        requests = trace(kind, ONE, 0.7, 150)
        for policy in POLICIES.values():
            result = policy(ONE, requests).run()
            assert result.loads >= least_loads(requests, ONE, max(result.waits)) > 0


def test_models_that_cannot_be_up_together_are_loaded_anew_in_each_window():
    """Two of some 15 GiB on a card of 24, an hour apart: whoever waits 10 s at most loads both each time."""
    a, b = of_size(ONE, 15), of_size(ONE, 15, 1)
    requests = asked(*((3600.0 * hour + wait, each) for hour in range(4) for wait, each in ((0, a), (1, b))))
    assert least_loads(requests, ONE, worst_wait=10) == 2 + 3


def test_two_alternating_models_do_not_thrash():
    """A B A B for ten minutes on a card for one of them: a swap for each request would be 200 loads."""
    a, b = of_size(ONE, 15), of_size(ONE, 15, 1)
    requests = asked(*((3.0 * number, (a, b)[number % 2]) for number in range(200)))
    result = Ours(ONE, requests).run()
    assert result.loads <= 600 / LIMITS.min_residency_seconds, "warming up included"
    assert max(result.waits) < LIMITS.max_wait_seconds
    hasty = Ours(ONE, requests, replace(LIMITS, min_residency_seconds=0)).run()
    assert hasty.loads > 1.5 * result.loads, "it is the residency that does it"


def test_the_clairvoyant_keeps_the_model_requested_next_even_if_it_is_rare():
    often, once, new = of_size(ONE, 10), of_size(ONE, 10, 1), of_size(ONE, 10, 2)
    before = [(2.0 * number, often) for number in range(20)]
    requests = asked(*before, (41.0, once), (200.0, new), (220.0, once))
    assert (Clairvoyant(ONE, requests).run().loads, Ours(ONE, requests).run().loads) == (3, 4)


def test_loads_on_different_cards_run_at_the_same_time():
    a, b = of_size(TWO, 15), of_size(TWO, 15, 1)
    result = Ours(TWO, asked((0.0, a), (0.0, b))).run()
    assert max(result.waits) < max(a.load_seconds, b.load_seconds) + 0.1


def test_a_permanently_busy_model_does_not_starve_another():
    a, b = of_size(ONE, 15), of_size(ONE, 15, 1)
    always = [(number * 1.0, a) for number in range(600)]
    result = Ours(ONE, asked(*always, (30.0, b), seconds=SLOTS - 0.5)).run()
    assert max(result.waits) < LIMITS.max_wait_seconds


def test_a_verdict_says_where_a_peer_is_better():
    row = {"trace": "t", "machine": "m", "load": 0.5, "max_wait_s": 9.0}
    ours = row | {"policy": "ours", "loads_per_1000": 20.0, "p95_wait_s": 5.0}
    bound = row | {"policy": "lower-bound", "loads_per_1000": 10.0, "p95_wait_s": None}
    better, other = ours | {"policy": "x", "loads_per_1000": 19.0, "p95_wait_s": 4.0}, ours | {"policy": "x"}
    assert [each["holds"] for each in verdict([ours, bound, better])] == [False] * 5 + [True, False]
    assert [each["holds"] for each in verdict([ours, bound, other])][:5] == [True] * 5


def test_a_peer_that_exceeds_the_wait_limit_is_excluded_from_one_share_only():
    row = {"trace": "t", "machine": "m", "load": 0.5, "max_wait_s": 9.0}
    ours = row | {"policy": "ours", "loads_per_1000": 20.0, "p95_wait_s": 5.0}
    bound = row | {"policy": "lower-bound", "loads_per_1000": 10.0, "p95_wait_s": None}
    other, lasting = ours | {"policy": "x"}, ours | {"policy": "y", "loads_per_1000": 1.0, "max_wait_s": 301.0}
    _, all_peers, _, _, bounded, *_ = verdict([ours, bound, other, lasting])
    assert (all_peers["measured"], bounded["measured"]) == (0.0, 1.0)
    assert "of 1 pairs" in bounded["bound"]
    *_, nobody_left, _, _ = verdict([ours, bound, lasting])
    assert "of 0 pairs" in nobody_left["bound"] and not nobody_left["holds"]


@pytest.mark.integration
def test_the_command_prints_what_it_says():
    command = [
        sys.executable,
        "-m",
        "bench.scheduling",
        "--json",
        "--quick",
        "--traces",
        "bursts",
        "--machines",
        "1x24",
    ]
    made = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout)
    assert {run["policy"] for run in made["runs"]} == {*POLICIES, "lower-bound"}
    wanted = {"trace", "machine", "load", "policy", "loads_per_1000", "p50_wait_s", "p95_wait_s", "p99_wait_s"}
    assert all(run.keys() == wanted | {"max_wait_s", "load_gpu_seconds"} for run in made["runs"])
