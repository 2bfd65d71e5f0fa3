"""Several models at once, and models that alternate in memory for one: real engine, real bookings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers.fixed_ram import RAM_BYTES
from tests.helpers.service import Service, serving, wait_for
from workers.catalog.demo_model import write_demo_model


def two_models(folder: Path) -> Path:
    models = folder / "models"
    demo = write_demo_model(folder / "written")
    models.mkdir()
    for name in ("one", "two"):
        (models / f"{name}.gguf").write_bytes(demo.read_bytes())
    return models


def a_modest_engine(folder: Path, share_of_memory: float) -> dict[str, str]:
    """Settings with which each model is booked with this share of the machine's memory.

    The engine, the embedded one without `-fit` like older builds, does not really allocate that context.
    """
    binary = folder / "llama-server"
    engine = f"{sys.executable} -P {EMBEDDED}"
    binary.write_text(
        f'#!/bin/sh\n[ "$1" != --help ] || exec {engine} --help | grep -v -e -fit,\nexec {engine} "$@" -c 4096\n'
    )
    binary.chmod(0o755)
    tokens = int(RAM_BYTES * share_of_memory) // DEMO_TOKEN_BYTES
    return {"ENGINE__BINARY": str(binary), "DEFAULTS__CTX_SIZE": str(tokens)}


# 5120 in the demo model's KV cache (160 MiB for 32,768 tokens), and 2 in the mask for each of 512 tokens of a ubatch.
DEMO_TOKEN_BYTES = 5120 + 2 * 512
ONE_AT_A_TIME = {"SCHEDULING__MAX_LOADED": "1"}
EMBEDDED = Path(__file__).parents[2] / "workers" / "engine" / "embedded_engine.py"


def loads(service: Service) -> int:
    return service.output.count("spawn server=")


def test_models_that_fit_together_stay_loaded(tmp_path: Path):
    with serving(tmp_path, "--models-dir", str(two_models(tmp_path))) as service:
        for name in ("one", "two", "one", "two"):
            assert service.chat(name).status_code == 200
        assert [(s["model_id"], s["state"]) for s in service.servers()] == [("one", "ready"), ("two", "ready")]
        assert loads(service) == 2


@pytest.mark.parametrize("limit", ["memory", "max_loaded"])
def test_two_models_alternate_under_load_in_memory_for_one(tmp_path: Path, limit: str):
    """Every request is answered by the requested model, and never are two loaded at once."""
    settings = a_modest_engine(tmp_path, 0.55) if limit == "memory" else ONE_AT_A_TIME
    settings = {**settings, "SCHEDULING__MIN_RESIDENCY_SECONDS": "1"}  # more swaps
    answered: Counter[tuple[str, int, str]] = Counter()
    most_loaded = 0

    def ask(service: Service, turns: list[str]) -> None:
        for name in turns:
            answer = service.chat(name, max_tokens=2)
            answered[name, answer.status_code, answer.json().get("model", answer.text)] += 1

    with serving(tmp_path, "--models-dir", str(two_models(tmp_path)), **settings) as service:
        service.get("/health")
        clients = [threading.Thread(target=ask, args=(service, ["one", "two"] * 2)) for _ in range(4)]
        for client in clients:
            client.start()
        while any(client.is_alive() for client in clients):
            most_loaded = max(most_loaded, len(service.servers()))
            time.sleep(0.02)
        assert answered == {("one", 200, "one"): 8, ("two", 200, "two"): 8}
        assert most_loaded == 1
        assert loads(service) >= 2


def test_a_busy_model_finishes_its_answer_before_it_is_evicted(tmp_path: Path):
    models = two_models(tmp_path)
    with serving(tmp_path, "--models-dir", str(models), **a_modest_engine(tmp_path, 0.55)) as service:
        stream = service.chat("one", stream=True, max_tokens=800, ignore_eos=True)
        lines = stream.iter_lines()
        next(line for line in lines if line.startswith(b"data:"))  # a slow load sends comments first
        with ThreadPoolExecutor() as pool:
            other = pool.submit(service.chat, "two")
            events = [line for line in lines if line.startswith(b"data: ")]
            assert other.result(30).status_code == 200
        assert events[-1] == b"data: [DONE]"
        assert sum(b'"content"' in event for event in events) >= 790
        assert [server["model_id"] for server in service.servers()] == ["two"]


def test_an_explicit_load_evicts_too(tmp_path: Path):
    with serving(tmp_path, "--models-dir", str(two_models(tmp_path)), **ONE_AT_A_TIME) as service:
        for name in ("one", "two"):
            assert service.post("/models/load", {"model": name}).json() == {"success": True}
            wait_for(lambda: service.get("/v1/models").text.count('"loaded"') == 1, 10)
            assert [server["model_id"] for server in service.servers()] == [name]


def test_the_configuration_reaches_the_engine(tmp_path: Path):
    """From the file to the engine's command line and environment, read from /proc."""
    models = two_models(tmp_path)
    (tmp_path / "config.yaml").write_text(
        json.dumps(
            {
                "catalog": {"models_dirs": ["models"]},
                "engine": {
                    "args": ["--reasoning-format", "none", "--threads", "1"],
                    "env": {"COLOUR": "red", "SHAPE": "round"},
                },
                "defaults": {"ctx_size": 2048, "parallel": 2},
                "models": {
                    "mine": {
                        "path": "one.gguf",
                        "aliases": ["gpt-4o-mini"],
                        "ctx_size": 1024,
                        "args": ["--keep", "7"],
                        "load_mode": "read",
                        "env": {"COLOUR": "blue"},
                    }
                },
            }
        )
    )
    os.environ["LLAMA_ARG_TOOLS"] = "all"  # unsafe: a child process must not inherit it
    try:
        with serving(tmp_path, "--config", str(tmp_path / "config.yaml"), DEFAULTS__CTX_SIZE="4096") as service:
            for name in ("mine", "gpt-4o-mini", "one", "one.gguf"):
                answer = service.chat(name)
                assert (answer.status_code, answer.json()["model"]) == (200, "mine")
            (engine,) = service.engines()
            line, environ = engine.cmdline(), engine.environ()
            (load,) = (server["load"] for server in service.get("/status").json()["servers"])
            assert f"loaded server=1 model=mine mode=read from={load['from']} {load['text']}" in service.output
            listed = {model["id"]: model["aliases"] for model in service.get("/v1/models").json()["data"]}
            assert service.chat("two").status_code == 200
            other = next(e for e in service.engines() if e.pid != engine.pid).cmdline()
    finally:
        del os.environ["LLAMA_ARG_TOOLS"]
    assert listed == {"mine": ["gpt-4o-mini"], "two": []}
    assert value(line, "--ctx-size") == "1024" and value(other, "--ctx-size") == "4096", "the environment's is stronger"
    assert value(line, "--parallel") == value(other, "--parallel") == "2"
    assert value(line, "--model") == str(models / "one.gguf")
    assert value(line, "--alias") == "mine"
    assert value(line, "--load-mode") == "none" and "--load-mode" not in other, "auto on the CPU: the engine decides"
    assert value(line, "--keep") == "7" and "--keep" not in other
    assert value(line, "--reasoning-format") == value(other, "--reasoning-format") == "none"
    assert (environ["COLOUR"], environ["SHAPE"]) == ("blue", "round")
    inherited = {"PATH", "HOME", "LANG", "LD_LIBRARY_PATH"}
    given = {"COLOUR", "SHAPE", "LLAMA_API_KEY", "LLAMA_SERVER_ROUTER_PORT", "LLAMA_PROXY_MARK", "GGML_NO_BACKTRACE"}
    assert {name for name in environ if not name.startswith(("CUDA_", "NVIDIA_"))} <= inherited | given


def value(line: list[str], option: str) -> str:
    return line[line.index(option) + 1]


def test_an_embedding_model_is_served_with_embeddings_in_its_args(tmp_path: Path):
    demo = write_demo_model(tmp_path / "written")
    models = json.dumps({"embed": {"path": str(demo), "args": ["--embeddings"]}})
    with serving(tmp_path, MODELS=models) as service:
        answer = service.post("/v1/embeddings", {"model": "embed", "input": ["Hello!", "again"]})
        assert [len(row["embedding"]) for row in answer.json()["data"]] == [64, 64]
        output = wait_for(lambda: "curl" in service.output and service.output, 20)
        command = next(line.strip() for line in output.splitlines() if line.strip().startswith("curl"))
        tried = subprocess.run(["sh", "-c", f"{command} -sS"], capture_output=True, text=True, timeout=60)
        assert '"embedding"' in tried.stdout, "the request printed at the start suits such a model"


def test_the_start_prints_a_request_for_a_chat_model_if_there_is_one(tmp_path: Path):
    demo = str(write_demo_model(tmp_path / "written"))
    models = {"embed": {"path": demo, "args": ["--embeddings"]}, "speak": {"path": demo}}
    with serving(tmp_path, MODELS=json.dumps(models)) as service:
        output = wait_for(lambda: "curl" in service.output and service.output, 20)
        assert '/v1/chat/completions -d \'{"model": "speak"' in output


def test_not_supported_by_the_engine_is_marked_permanent(tmp_path: Path):
    """SDKs would retry it otherwise. The body is the engine's own."""
    demo = write_demo_model(tmp_path / "written")
    with serving(tmp_path, MODELS=json.dumps({"speak": {"path": str(demo)}})) as service:
        answer = service.post("/props", {"model": "speak"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (501, "not_supported_error")
        assert answer.headers["x-should-retry"] == "false"
        assert "x-llama-smart-proxy-error" not in answer.headers
