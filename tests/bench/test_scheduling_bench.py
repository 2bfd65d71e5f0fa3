"""bench.scheduling: the simulation is correct, and the scheduler's behaviour in short runs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from app.use_cases.estimate.estimate import estimate_memory
from bench.scheduling.arrivals import KINDS, Request, offered_load, trace
from bench.scheduling.bound import least_loads
from bench.scheduling.causes import Causes
from bench.scheduling.clairvoyant import Clairvoyant
from bench.scheduling.clients import Client, Clients
from bench.scheduling.configured import QUICK_COUNT, configured
from bench.scheduling.disk import Disk
from bench.scheduling.machines import MACHINES, MODELS, OWN_DISKS, SLOTS, START_SECONDS, Machine, Subject
from bench.scheduling.ours import LIMITS, Ours
from bench.scheduling.peers import PEERS
from bench.scheduling.verdict import METRICS, verdict
from bench.scheduling.worlds import World, run_world, run_worlds

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
    assert (result.loads, result.load_gpu_seconds) == (1, pytest.approx(subject.load_seconds))


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
    hasty = Ours(ONE, requests, limits=replace(LIMITS, min_residency_seconds=0)).run()
    assert hasty.loads > 1.5 * result.loads, "it is the residency that does it"


def test_the_clairvoyant_keeps_the_model_requested_next_even_if_it_is_rare():
    often, once, new = of_size(ONE, 10), of_size(ONE, 10, 1), of_size(ONE, 10, 2)
    before = [(2.0 * number, often) for number in range(20)]
    requests = asked(*before, (41.0, once), (200.0, new), (220.0, once))
    assert (Clairvoyant(ONE, requests).run().loads, Ours(ONE, requests).run().loads) == (3, 4)


def test_loads_on_different_cards_run_at_the_same_time():
    a, b = of_size(TWO, 15), of_size(TWO, 15, 1)
    result = Ours(OWN_DISKS[1], asked((0.0, a), (0.0, b))).run()
    assert max(result.waits) < max(a.load_seconds, b.load_seconds) + 0.1


def test_a_permanently_busy_model_does_not_starve_another():
    a, b = of_size(ONE, 15), of_size(ONE, 15, 1)
    always = [(number * 1.0, a) for number in range(600)]
    result = Ours(ONE, asked(*always, (30.0, b), seconds=SLOTS - 0.5)).run()
    assert max(result.waits) < LIMITS.max_wait_seconds


def test_loads_at_the_same_time_share_the_disk():
    a, b = of_size(TWO, 15), of_size(TWO, 15, 1)
    requests = asked((0.0, a), (0.0, b))
    alone = START_SECONDS + max(a.read_seconds, b.read_seconds)
    together = START_SECONDS + a.read_seconds + b.read_seconds
    for policy in (Ours, PEERS["lru-count-16"]):
        assert max(policy(TWO, requests).run().waits) == pytest.approx(together, abs=0.01)
        assert max(policy(OWN_DISKS[1], requests).run().waits) == pytest.approx(alone, abs=0.01)


def test_a_load_that_begins_later_has_the_disk_to_itself_before_and_after():
    disk = Disk(is_shared=True)
    disk.begin(1, 0.0, 1.0, 10.0)
    disk.begin(2, 4.0, 1.0, 2.0)  # reads from 5 on: by then the first has read for 4 seconds
    assert disk.next_at() == 5.0 + 2 * 2.0
    assert disk.finished(9.0) == [2]
    assert disk.next_at() == 9.0 + 10.0 - 4.0 - 2.0
    disk.drop(1, 10.0)
    assert disk.next_at() == float("inf")


def test_a_split_costs_the_peers_what_it_is_estimated_at():
    subject = of_size(TWO, 15)
    options = replace(subject.request.options, devices=2, tensor_split=(1.0, 1.0))
    estimate = estimate_memory(subject.request.shape, options)
    assert subject.split_bytes(2) == sum(device.booked_bytes for device in estimate.devices) > subject.gpu_bytes


def test_a_client_asks_again_only_when_it_has_its_answer_and_has_thought():
    """After 1 to 7 seconds for the answer, and 5 to 15 to think."""
    clients = Clients((Client("one", (of_size(ONE, 15),), 10.0),), seconds=300.0)
    result = Ours(ONE, clients.first, clients.follow_up).run()
    assert 300 / (15 + 7) < len(result.waits_of["one"]) < 300 / (5 + 1)


def test_a_client_may_alternate_between_models():
    a, b = of_size(ONE, 15), of_size(ONE, 15, 1)
    clients = Clients((Client("one", (a, b), 10.0),), seconds=300.0)
    result = PEERS["lru-count-16"](ONE, clients.first, clients.follow_up).run()
    assert result.loads == len(result.waits) > 10, "a swap for each request"


def test_the_causes_of_waiting_add_up_to_the_waits():
    requests, causes = trace("zipf", ONE, 0.7, 100), Causes()
    result = Ours(ONE, requests, causes=causes).run()
    assert sum(causes.seconds.values()) == pytest.approx(sum(result.waits))
    assert causes.seconds["own load"] > 0 and causes.seconds["busy, not drained"] > 0


def test_preferred_models_wait_less_than_without_priorities():
    preferred, others, replicas = configured(QUICK_COUNT, seed=1)
    assert preferred["mean_wait_s"] < preferred["mean_wait_without_s"]
    assert others["requests"] == replicas["requests"] == "others"


@pytest.mark.integration
def test_worlds_that_are_done_are_not_run_again(tmp_path: Path):
    first, second = (World("bursts", "1x24", 0.5, seed, 30, ("ours", "lru-count-16"), True) for seed in (1, 2))
    resume = tmp_path / "worlds"
    made = run_worlds([first], 1, resume)
    assert [run["policy"] for run in made.runs] == ["ours", "lru-count-16", "lower-bound"]
    both = run_worlds([first, second], 2, resume)
    assert both.runs[:3] == made.runs and len(both.runs) == 6 and len(both.causes) == 2
    assert len(resume.read_text().splitlines()) == 2
    assert run_world(first) == made, "and the same again in another process"


def _row(policy: str, wait: float, **other: object) -> dict[str, object]:
    waits = {f"{metric}_wait_s": wait for metric in METRICS}
    about = {"trace": "t", "machine": "m", "load": 0.5, "seed": 1, "policy": policy, "loads_per_1000": 20.0}
    return about | waits | other


def test_a_verdict_compares_with_the_best_fair_peer_of_each_world():
    ours, better, crippled = _row("ours", 9.5), _row("lru-memory", 4.5), _row("lru-count", 0.5)
    rows = verdict([ours, better, crippled, _row("fifo-swap", 99.5)])
    mean = next(row for row in rows if row["bound"].startswith("mean wait"))
    assert (mean["measured"], mean["holds"]) == (2.0, False)
    assert next(row for row in rows if row["bound"].startswith("p50"))["holds"], "only told"
    assert all(row["holds"] for row in verdict([ours, _row("lru-memory", 9.5)]))


def test_a_verdict_shows_the_spread_over_the_seeds():
    first = [_row("ours", 9.5, seed=1), _row("lru-memory", 4.5, seed=1)]
    rows = [*first, _row("ours", 4.5, seed=2), _row("lru-memory", 9.5, seed=2)]
    mean = verdict(rows)[0]
    assert (mean["measured"], mean["seeds"]) == (1.0, [0.5, 2.0])


@pytest.mark.integration
def test_the_command_prints_what_it_says():
    options = ["--json", "--quick", "--seed", "3", "--traces", "bursts", "--machines", "1x24"]
    command = [sys.executable, "-m", "bench.scheduling", *options]
    made = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout)
    assert {run["policy"] for run in made["runs"]} == {*POLICIES, "lower-bound"}
    about = {"trace", "machine", "load", "policy", "seed", "loads_per_1000", "load_gpu_seconds"}
    assert all(run.keys() == about | {f"{metric}_wait_s" for metric in METRICS} for run in made["runs"])
    assert {run["seed"] for run in made["runs"]} == {3} and made["verdict"]
