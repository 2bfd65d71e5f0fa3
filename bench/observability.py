"""Measures the cost of being watched: a page of /metrics, and an open status page.

    python -m bench.observability [--rounds N] [--seconds S] [--json FILE]

`page`: /metrics rendered in process, of 64 loaded models with two endpoints each, their engines' own series and 8 GPUs,
by turns with prometheus_client's encoders: milliseconds of CPU and of wall time, and the ratios of each round.
`scrape`: GET /metrics of a service that runs one model, milliseconds of wall time.
`viewer`: CPU time of the service's processes as a share of one core, by turns without a viewer, one viewer of
/status/stream, and a scrape each second; engines are counted apart. Nobody sends requests meanwhile.
`tabs`: GET /health while 200 tabs ask for /status/stream and most are refused, by turns with nobody: milliseconds.
The run fails if watching loads a model, or counts as a use of one that is loaded.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import requests
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from app.entities.gpu import Gpu, GpuSnapshot, GpuState
from app.entities.server import ServerState
from app.ports import Address
from app.use_cases.scheduling.pool_state import PoolState
from bench.record import record, summary
from tests.helpers.builders import GIB, a_model, a_server
from tests.helpers.service import Service, serving
from workers.engine_metrics.series import EngineSeries
from workers.telemetry.gauges import Gauges
from workers.telemetry.store import StateStore

MODELS, GPUS, ENGINE_SERIES = 64, 8, 15
ENDPOINTS = ("/v1/chat/completions", "/v1/embeddings")
SCRAPES = 50
TABS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4, help="of the viewer (default: 4)")
    parser.add_argument("--seconds", type=float, default=4, help="of each phase of a round (default: 4)")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    figures = {"page": _page()}
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as service:
        assert service.chat().status_code == 200
        figures["scrape_ms"] = summary([_milliseconds(lambda: service.get("/metrics"))[0] for _ in range(SCRAPES)])
        figures["viewer"] = _viewer(service, options.rounds, options.seconds)
        figures["tabs"] = _tabs(service, options.rounds, options.seconds)
    for name, figure in figures.items():
        print(f"{name:10} {figure}")
    if options.json:
        load = [float(f"{each:.3g}") for each in psutil.getloadavg()]
        record(options.json, figures, rounds=options.rounds, seconds=options.seconds, load_average=load)


# --- the page of many models -------------------------------------------------------------------------------------


def _page() -> dict[str, Any]:
    gauges = _gauges()
    ways: dict[str, Callable[[], object]] = {
        "own": lambda: gauges.render(""),
        "library": lambda: generate_latest(gauges.registry),
        "library_openmetrics": lambda: generate_openmetrics(gauges.registry),
    }
    rounds = [{name: _milliseconds(way) for name, way in ways.items()} for _ in range(SCRAPES)]
    figures: dict[str, Any] = {"lines": gauges.render("")[0].count(b"\n")}
    for name in ways:
        figures[f"{name}_wall_ms"] = summary([each[name][0] for each in rounds])
        figures[f"{name}_cpu_ms"] = summary([each[name][1] for each in rounds])
    for name in ("library", "library_openmetrics"):
        figures[f"{name}_by_own_cpu"] = summary([each[name][1] / each["own"][1] for each in rounds])
    return figures


def _gauges() -> Gauges:
    gpus = tuple(Gpu(f"GPU-{n}", n, "card", "0000:01", 80, 40, 40, 50, 60, 300.0) for n in range(GPUS))
    ready: dict[str, Any] = {"state": ServerState.READY, "ready_at": 1.0}
    servers = tuple(
        a_server(model, GIB, id=n, reported={"cpu": GIB}, **ready)
        for n, model in enumerate(a_model(f"model-{n}") for n in range(MODELS))
    )
    now = time.monotonic()
    snapshot = GpuSnapshot(GpuState.OK, now, gpus, answered_at=now, poll_seconds=3600.0)
    store = StateStore(replace(PoolState(), servers=servers, gpus=snapshot))
    gauges, series = Gauges(store, "bench"), EngineSeries(lambda: store.pool.servers)
    gauges.add(series)
    page = "".join(
        f"# HELP llamacpp:x{n} x\n# TYPE llamacpp:x{n} gauge\nllamacpp:x{n} 5\n" for n in range(ENGINE_SERIES)
    )
    series.publish([(Address(n, f"model-{n}", 1, ""), page.encode()) for n in range(MODELS)])
    for model in (server.model.name for server in servers):
        for endpoint in ENDPOINTS:
            gauges.answered(endpoint, model, 200, 1.0, 5, 7, "key")
        gauges.first_byte(model, 0.1, 0.01)
    return gauges


def _milliseconds(case: Callable[[], object]) -> tuple[float, float]:
    """Of wall time, and of this process's CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    case()
    return 1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu)


# --- a service that is watched -----------------------------------------------------------------------------------


def _viewer(service: Service, rounds: int, seconds: float) -> dict[str, Any]:
    shares: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, looking in (("nobody", _nobody), ("page", _page_viewer), ("scrapes", _scraper)):
            with looking(service):
                time.sleep(1)  # a viewer's first event is the whole page
                own, engines = _shares(service, seconds)
            shares.setdefault(name, []).append(own)
            shares.setdefault(f"{name}_engines", []).append(engines)
    figures: dict[str, Any] = {f"{name}_share": summary(values) for name, values in shares.items()}
    for name in ("page", "scrapes"):
        added = [looked - alone for looked, alone in zip(shares[name], shares["nobody"], strict=True)]
        figures[f"{name}_adds_share"] = summary(added)
    return figures


def _tabs(service: Service, rounds: int, seconds: float) -> dict[str, Any]:
    """Refused tabs try again each second, five times as often as the page does."""
    taken: dict[str, list[float]] = {"nobody": [], "tabs": []}
    statuses: list[int] = []
    for _ in range(rounds):
        taken["nobody"] += _health_milliseconds(service, seconds)
        with ExitStack() as stack:
            ended = threading.Event()
            stack.callback(ended.set)
            for _ in range(TABS):
                threading.Thread(target=_tab, args=(service, ended, statuses), daemon=True).start()
            taken["tabs"] += _health_milliseconds(service, seconds)
        time.sleep(2)  # until the streams have ended
    count = {str(status): statuses.count(status) for status in sorted(set(statuses))}
    return {name: summary(values) for name, values in taken.items()} | {"answers_to_tabs": count}


def _health_milliseconds(service: Service, seconds: float) -> list[float]:
    taken, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        taken.append(_milliseconds(lambda: service.get("/health"))[0])
        time.sleep(0.02)
    return taken


def _tab(service: Service, ended: threading.Event, statuses: list[int]) -> None:
    while not ended.is_set():
        with requests.get(f"{service.url}/status/stream", stream=True, timeout=20) as answer:
            statuses.append(answer.status_code)
            if answer.status_code == 200:
                ended.wait()
        ended.wait(1)


def _shares(service: Service, seconds: float) -> tuple[float, float]:
    """CPU time over wall time of the service's own processes, and of its engines."""
    engines = service.engines()
    own = [each for each in service.family() if each not in engines]
    idle_before, loaded = _idle_seconds(service), len(service.servers())
    began, before = time.monotonic(), (_cpu_seconds(own), _cpu_seconds(engines))
    time.sleep(seconds)
    passed, after = time.monotonic() - began, (_cpu_seconds(own), _cpu_seconds(engines))
    assert _idle_seconds(service) >= idle_before + seconds - 0.2, "watching was a use of the model"
    assert len(service.servers()) == loaded == 1, "watching has loaded a model"
    return (after[0] - before[0]) / passed, (after[1] - before[1]) / passed


def _idle_seconds(service: Service) -> float:
    return float(service.servers()[0]["idle_seconds"])


def _cpu_seconds(processes: list[psutil.Process]) -> float:
    return sum(times.user + times.system for times in (each.cpu_times() for each in processes))


@contextmanager
def _nobody(service: Service) -> Iterator[None]:
    yield


@contextmanager
def _page_viewer(service: Service) -> Iterator[None]:
    with requests.get(f"{service.url}/status/stream", stream=True, timeout=20) as answer:
        reader = threading.Thread(target=lambda: _drain(answer), daemon=True)
        reader.start()
        yield


def _drain(answer: requests.Response) -> None:
    try:
        for _ in answer.iter_content(None):
            pass
    except (requests.RequestException, AttributeError, ValueError):  # closed by the other thread
        pass


@contextmanager
def _scraper(service: Service) -> Iterator[None]:
    ended = threading.Event()

    def scrape() -> None:
        while not ended.wait(1.0):
            service.get("/metrics")

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


if __name__ == "__main__":
    main()
