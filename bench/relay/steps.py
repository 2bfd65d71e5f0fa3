"""Measures the cost of each step of a small request, and the lower limits set by gunicorn and Flask.

    python -m bench.relay.steps [--json] [--rounds N] [--record FILE]

First under load, with 32 concurrent clients and the server on its own core as in bench.relay: nginx as a proxy; three
servers without an upstream (gunicorn, gunicorn with Flask, our worker); and our complete service. gunicorn without an
upstream is the lower limit for any WSGI application under it. Then our own steps, one by one on a single thread, in the
order of a request: microseconds, the fastest of many batches, which excludes other load on the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from app.routes.authorization import authorize
from app.routes.incoming_request import IncomingRequest
from app.routes.requested_model import read_request
from app.routes.visibility import servable_model
from app.settings.configuration import load_settings
from app.use_cases.reporting.recent_requests import RequestRecord
from app.use_cases.scheduling.events import Ending
from bench.record import record, summary
from bench.relay import systems
from bench.relay.load import small
from bench.relay.stand_in import MEASURED_CORE, OTHER_CORE, Programs, compiled, pin, upstream
from bench.relay.systems import MODELS, Running, Surroundings
from workers.runtime import Runtime
from workers.server.child_process import free_port
from workers.telemetry.refusal_log import RefusalLog

SECONDS, CLIENTS = 4.0, 32
BATCHES, BATCH = 60, 200
BODY = json.dumps({"model": MODELS[0], "max_tokens": 1, "messages": [{"role": "user", "content": "Hello!"}]}).encode()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.relay.steps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of load (default: 3)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--record", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    os.sched_setaffinity(0, {OTHER_CORE})
    with tempfile.TemporaryDirectory() as folder:
        programs = compiled(Path(folder))
        made = {"by_load": _by_load(Path(folder), programs, options.rounds), "steps_us": _steps(Path(folder), programs)}
    print(json.dumps(made) if options.json else _table(made))
    if options.record:
        record(options.record, made, rounds=options.rounds)


# --- by load ---------------------------------------------------------------------------------------------


def _by_load(folder: Path, programs: Programs, rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Requests per second and CPU microseconds per request: minimum, median and maximum of the rounds."""
    seen: dict[str, list[dict[str, Any]]] = {}
    with upstream(programs) as port:
        for number in range(rounds):
            for name, start in _SERVERS.items():
                own = folder / f"{name}-{number}"
                own.mkdir()
                print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
                with start(Surroundings(own, programs, port)) as running:
                    pin(running.processes(), MEASURED_CORE)
                    seen.setdefault(name, []).append(small(running, SECONDS, CLIENTS))
    figures = ("requests_per_s", "cpu_us")
    return {name: {each: summary([one[each] for one in seen[name]]) for each in figures} for name in seen}


def _constant(kind: str) -> Callable[[Surroundings], contextlib.AbstractContextManager[Running]]:
    def start(given: Surroundings) -> contextlib.AbstractContextManager[Running]:
        port = free_port()
        return systems.peer(port, [sys.executable, "-m", "bench.relay.constant", str(port), kind])

    return start


_SERVERS = {
    "nginx": systems.nginx_peer,
    "gunicorn, no upstream": _constant("gunicorn"),
    "gunicorn and Flask, no upstream": _constant("flask"),
    "our worker, no upstream": _constant("worker"),
    "ours": systems.ours,
}


# --- step by step ----------------------------------------------------------------------------------------


def _steps(folder: Path, programs: Programs) -> dict[str, float]:
    """Microseconds of each step of our own code, from after the worker until before the answer is sent."""
    with _runtime(folder, programs) as services:
        return {name: _fastest_us(step) for name, step in _named_steps(services).items()}


def _named_steps(services: Any) -> dict[str, Callable[[], object]]:
    path = "/v1/chat/completions"
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": path, "CONTENT_TYPE": "application/json"}
    incoming, client = IncomingRequest(environ, services, "bench"), services.clients.watch(None)
    model = servable_model(incoming, MODELS[0])

    def slot() -> Any:
        pending = services.pool.acquire(model, 10.0, client)
        lease = pending.wait()
        pending.end(Ending.COMPLETE)
        return lease

    address = slot().address

    def relay() -> None:
        answer, pieces = services.relay.send(address, incoming.for_engine(BODY), client), list[bytes]()
        assert answer.copy_body(pieces.append, None) and pieces
        answer.usage()
        answer.close()

    def read_body() -> None:
        read_request(incoming, services.bodies.receive(io.BytesIO(BODY).read, len(BODY), "x"))

    def report() -> None:
        services.gauges.first_byte(model.name, 0.001, 0.0)
        services.gauges.answered(path, model.name, 200, 0.001, 7, 1, "")
        services.activity.note(RequestRecord(0.0, model.name, path, 200, 0.0, 0.001, 0.001, 7, 1, None, None))
        services.access_log.note(200, path, model.name, model.name, 0.001, 7, 1, incoming.request_id)

    return {
        "parse the request": lambda: IncomingRequest(environ, services, "bench"),
        "authorization": lambda: authorize(incoming),
        "JSON: the model's name": lambda: read_request(
            incoming, services.bodies.receive(io.BytesIO(BODY).read, len(BODY), "x")
        ),
        "catalog": lambda: servable_model(incoming, MODELS[0]),
        "scheduler: acquire and release a slot": slot,
        "relay to llama-server and back, usage": relay,
        "metrics and log": report,
    }


@contextlib.contextmanager
def _runtime(folder: Path, programs: Programs) -> Iterator[Any]:
    """The services of a worker in this process, with one model loaded on demand."""
    config = folder / "config.json"
    config.write_text(json.dumps(systems.our_settings(Surroundings(folder / "steps", programs, 0))))
    os.environ |= {"XDG_STATE_HOME": str(folder), "LLAMA_SMART_PROXY_CONFIG": str(config)}
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        runtime = Runtime(load_settings(), RefusalLog())
        runtime.start()
        try:
            yield runtime.services
        finally:
            runtime.close(5.0)


def _fastest_us(step: Callable[[], object]) -> float:
    step()
    batches = []
    for _ in range(BATCHES):
        began = time.perf_counter()
        for _ in range(BATCH):
            step()
        batches.append((time.perf_counter() - began) / BATCH * 1e6)
    return float(f"{min(batches):.3g}")


def _table(made: dict[str, Any]) -> str:
    lines = [f"{'32 clients':36} {'requests/s':>11} {'CPU us/req':>12}"]
    for name, seen in made["by_load"].items():
        lines.append(f"{name:36} {seen['requests_per_s']['median']:11.0f} {seen['cpu_us']['median']:12.0f}")
    lines.append(f"{'one thread':36} {'us':>11}")
    lines += [f"{name:36} {value:11.3g}" for name, value in made["steps_us"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
