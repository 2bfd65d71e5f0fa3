"""One soak: warm-up, rest, faults, rest, the end; and what it found."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.soak import client_faults, crash_faults, engine_faults, gpu_faults, service_faults  # noqa: F401 - they register
from bench.soak.account import Account
from bench.soak.faults import FAULTS
from bench.soak.kills import KILLS
from bench.soak.machine import allow_many_descriptors
from bench.soak.outcome import CUT, LEFT, REFUSED
from bench.soak.plan import Planned, plan
from bench.soak.probes import Probes, summary
from bench.soak.resources import Held, growth
from bench.soak.target import STEADY, Target
from bench.soak.traffic import Traffic
from tests.helpers.service import has_exited, wait_for
from workers.gunicorn_worker.request_threads import IDLE_SECONDS

AT_ONCE = 4  # faults
USERS = 4
WARM_UP_GAP_SECONDS = 0.8
SAMPLE_SECONDS = 5.0
SECONDS_PER_KILL = 200.0  # of the faults before
QUIET_SECONDS = 6.0  # at rest, before what is held is counted: kept connections close after 3 s
MIN_HEALTH_PERCENT = 99.99


def soak(folder: Path, seconds: float, seed: int, warm_up_seconds: float, kinds: Iterable[str] = ()) -> dict[str, Any]:
    """Run faults for so long; returns the figures and the verdict."""
    allow_many_descriptors()
    account = Account()
    target = Target(folder, account)
    try:
        return _Soak(target, seed, sorted(kinds) or sorted(FAULTS | KILLS)).run(seconds, warm_up_seconds)
    finally:
        target.close()


class _Soak:
    def __init__(self, target: Target, seed: int, kinds: list[str]) -> None:
        self._target, self._account, self._seed = target, target.account, seed
        self._kinds = [kind for kind in kinds if kind in FAULTS]
        self._kills = [kind for kind in kinds if kind in KILLS]
        self._samples: list[dict[str, Any]] = []
        self._over = threading.Event()

    def run(self, seconds: float, warm_up_seconds: float) -> dict[str, Any]:
        self._period(plan(self._kinds, warm_up_seconds, self._seed + 1, WARM_UP_GAP_SECONDS), warm_up_seconds)
        before = self._at_rest()
        self._account.reset()
        probes, sampler = Probes(self._target.client.port), threading.Thread(target=self._sample)
        sampler.start()
        self._period(plan(self._kinds, seconds, self._seed), seconds)
        figures = {"seconds": round(self._account.seconds), "requests": self._requests()}
        probes.close()
        self._over.set()
        sampler.join()
        after = self._at_rest_since(before)
        figures |= {"kills": self._kill_the_service(1 + int(seconds / SECONDS_PER_KILL))}
        self._end()
        health = summary(probes.seconds)
        return self._verdict(figures, health, before, after) | {"samples": self._samples, "probes": probes.seconds}

    # --- periods ----------------------------------------------------------------------------------------------

    def _period(self, planned: Iterable[Planned], seconds: float) -> None:
        """Users, and faults as planned; both have ended afterwards. A fault that could not begin in time is left out:
        a busy machine takes longer for each."""
        traffic, began = Traffic(self._target, USERS, self._seed), time.monotonic()
        traffic.start()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for each in planned:
                time.sleep(max(0.0, began + each.at - time.monotonic()))
                pool.submit(self._inject, each, began + seconds)
        traffic.stop()

    def _inject(self, each: Planned, until: float) -> None:
        if time.monotonic() > until:
            return
        self._account.begin(each.kind)
        try:
            FAULTS[each.kind](self._target, random.Random(each.seed))
        except Exception as error:
            self._account.fail(f"{each.kind} could not be injected: {error!r}")

    def _kill_the_service(self, times: int) -> dict[str, Any]:
        """Each kind of kill, so often, while users go on. A killed service starts anew, so this comes after what it
        holds was counted."""
        before, chance = self._account.totals(), random.Random(self._seed)
        traffic = Traffic(self._target, USERS, self._seed)
        traffic.start()
        for kind in self._kills * times:
            try:
                KILLS[kind](self._target, chance)
            except Exception as error:
                self._account.fail(f"{kind}: {error!r}")
        traffic.stop()
        return self._killed(self._account.totals() - before)

    def _at_rest(self) -> Held:
        if not self._target.come_to_rest():
            self._account.fail(f"it did not come to rest: {self._target.health()}")
        time.sleep(QUIET_SECONDS)
        return Held.by(self._target.worker, self._target.service.master)

    def _at_rest_since(self, before: Held) -> Held:
        """At rest, and when idle request threads have had the time to end, if some are left from the last burst."""
        after, until = self._at_rest(), time.monotonic() + IDLE_SECONDS
        while growth(before, after) and time.monotonic() < until:
            time.sleep(1.0)
            after = Held.by(self._target.worker, self._target.service.master)
        return after

    def _end(self) -> None:
        """A stop leaves nothing behind."""
        service = self._target.service
        family = service.family()
        if (status := service.stop(timeout=30)) != 0:
            self._account.fail(f"the service exited with {status}")
        try:
            wait_for(lambda: all(map(has_exited, family)), 5)
        except AssertionError:
            self._account.fail(f"left behind: {[process for process in family if not has_exited(process)]}")
        if service.tracebacks:
            lines = list(service.lines)
            first = next((n for n, line in enumerate(lines) if "Traceback" in line), 0)
            self._account.fail(f"{service.tracebacks} tracebacks in the log: {lines[max(0, first - 1) : first + 25]}")

    # --- figures ----------------------------------------------------------------------------------------------

    def _sample(self) -> None:
        done = Counter[str]()
        while not self._over.wait(SAMPLE_SECONDS):
            held, now = Held.by(self._target.worker, self._target.service.master), self._account.totals()
            new, done = now - done, now
            counts = {"answers": new["200"], "errors": new.total() - new["200"] - new[LEFT]}
            self._samples.append({"at": round(self._account.seconds, 1), **asdict(held), **counts})

    def _requests(self) -> dict[str, Any]:
        totals = self._account.totals()
        left = totals.pop(LEFT, 0)
        return {
            "sent": totals.total(),
            "answered": totals["200"],
            "by_outcome": dict(totals.most_common()),
            "steady_model": dict(self._account.by_model.get(STEADY, {})),
            "left_by_the_client": left,
        }

    def _killed(self, counts: Counter[str]) -> dict[str, Any]:
        outages = self._account.outages
        return {
            "kills": len(outages),
            "down_seconds": [round(each.ended - each.began, 1) for each in outages],
            "processes_that_survived_their_service": sum(each.survivors for each in outages),
            "requests": counts.total(),
            "answered": counts["200"],
            "refused_while_down": counts[REFUSED],
            "cut_by_a_kill": counts[CUT],
            "by_outcome": dict(counts.most_common()),
        }

    def _verdict(self, figures: dict[str, Any], health: dict[str, Any], before: Held, after: Held) -> dict[str, Any]:
        grown = growth(before, after)
        account = self._account
        is_healthy = health["answered_percent"] >= MIN_HEALTH_PERCENT
        return figures | {
            "passed": not account.failure_count and is_healthy and not grown,
            "faults": {"injected": account.faults.total(), "kinds": len(account.faults), **account.faults},
            "health": health,
            "held": {"after_warm_up": asdict(before), "at_the_end": asdict(after), "grown": grown},
            "failures": {"count": account.failure_count, "first": account.failures},
            "faults_begun": account.started,
        }
