"""Several servers of one model on this machine: real engines, real streams, real prompt caches."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.helpers.service import ENDLESS, Service, serving, wait_for
from workers.catalog.demo_model import write_demo_model


def configured(folder: Path, low: int, high: int, **scheduling: float) -> str:
    """The demo model on several servers of one slot each."""
    model = {"path": str(write_demo_model(folder / "models")), "parallel": 1, "replicas": {"min": low, "max": high}}
    model["args"] = ["--threads", "1"]  # two would spin at every barrier, slowing each other down on a busy machine
    config = folder / "config.json"
    config.write_text(json.dumps({"models": {"m": model}, "scheduling": scheduling}))
    return str(config)


def states(service: Service) -> list[str]:
    return [server["state"] for server in service.servers()]


@contextlib.contextmanager
def begun(service: Service) -> Iterator[None]:
    """A running stream, past its first token."""
    with service.chat("m", stream=True, **ENDLESS) as stream:
        lines = stream.iter_lines()
        assert any(b'"content"' in line for line in lines)
        yield
        assert any(b'"content"' in line for line in lines)


def test_a_replica_starts_for_waiting_requests_and_stops_when_idle(tmp_path: Path):
    with serving(tmp_path, "--config", configured(tmp_path, 1, 2, min_residency_seconds=1)) as service:
        with begun(service), begun(service):  # the second needs another server
            assert [server["requests"] for server in service.servers()] == [1, 1]
            assert states(service) == ["ready", "ready"]
            listed = service.get("/v1/models").json()["data"][0]["status"]
            assert (listed["value"], listed["instances"]) == ("loaded", 2)
            assert '<small class="soft" data-field="details">server 2</small>' in service.get("/").text
            (first, *_) = service.get("/decisions").json()["decisions"]
            assert first["reason"].startswith("server 2 of 2: ")
        wait_for(lambda: len(service.servers()) == 1, 60, lambda: service.output)
        assert service.chat("m").status_code == 200
        assert service.post("/models/unload", {"model": "m"}).json() == {"success": True}
        assert service.servers() == []


def test_a_conversation_returns_to_its_prompt_cache(tmp_path: Path):
    """Two run at once on different servers; later, when both are idle, each is routed to the server with its cache."""
    with serving(tmp_path, "--config", configured(tmp_path, 2, 2)) as service:
        assert service.post("/models/load", {"model": "m"}).status_code == 200
        wait_for(lambda: states(service) == ["ready", "ready"], 60, lambda: service.output)
        opening = {name: [{"role": "user", "content": f"{name}: " + f"a story about {name} " * 40}] for name in "xy"}

        def cached(name: str, tokens: int = 20) -> float:
            """The share of the prompt taken from the cache."""
            answer = service.chat("m", messages=opening[name], max_tokens=tokens, ignore_eos=True).json()
            return float(answer["timings"]["cache_n"] / (answer["timings"]["cache_n"] + answer["timings"]["prompt_n"]))

        with ThreadPoolExecutor() as pool:
            first = pool.submit(cached, "x", 1000)
            wait_for(lambda: any(server["requests"] for server in service.servers()), 20)
            cached("y")
            assert not first.done()
            first.result(60)
        for number, name in enumerate("yxyyxx"):
            # The only slot is released shortly after the answer arrives.
            wait_for(lambda: not any(server["requests"] for server in service.servers()), 20)
            assert cached(name) > 0.9, (number, name)
