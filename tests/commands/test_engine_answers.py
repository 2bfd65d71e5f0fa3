"""`estimate` and `plan` with what the engine says, and with what the service has seen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.commands.cli import main
from app.entities.launch import ModelOptions
from app.entities.memory import Confidence, DeviceMemory, Estimate
from app.settings.configuration import read_configuration
from app.use_cases.launch.capabilities import launch_as_started
from app.use_cases.model_shape.header_facts import header_facts
from workers.build_catalog import build_catalog
from workers.catalog.demo_model import write_demo_model
from workers.engine.binary import find_engine
from workers.gguf.header import read_header
from workers.measurement.history import History
from workers.measurement.model_history import start_of

GIB = 1024**3


pytestmark = pytest.mark.integration


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a service with the demo model on the CPU, and a state of its own."""
    write_demo_model(tmp_path)
    file = tmp_path / "config.json"
    models = {"demo": {"path": str(next(tmp_path.glob("*.gguf"))), "ctx_size": 2048, "parallel": 1}}
    gpu = {"enabled": False}
    file.write_text(json.dumps({"engine": {"binary": "embedded"}, "gpu": gpu, "models": models}))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("LLAMA_SMART_PROXY_CONFIG", str(file))
    return file


def run(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


def remember_a_load(folder: Path) -> None:
    """As the service does when the demo model has been loaded on the CPU."""
    model = build_catalog(read_configuration().settings).find("demo")
    launch = launch_as_started(model.launch, header_facts(read_header(model.path)))
    on_cpu: ModelOptions = replace(launch.options, devices=0, n_gpu_layers=0)
    start = start_of(replace(model, launch=replace(launch, options=on_cpu)), find_engine("embedded"))
    history = History(folder / "history.sqlite3")
    history.start()
    history.remember(start, Estimate((), DeviceMemory(3 * GIB, GIB, GIB), Confidence.MEASURED, ("as seen",)))
    history.close()


def test_what_the_service_measured_is_the_estimate_of_the_same_start(config: Path):
    remember_a_load(config.parent)
    report = json.loads(run("estimate", "demo", "--devices", "0", "--json").output)
    assert (report["confidence"], report["host"]["weights_bytes"]) == ("measured", 3 * GIB)
    assert json.loads(run("plan", "demo", "--json").output)["needed_bytes"] > 5 * GIB
    other = json.loads(run("estimate", "demo", "--devices", "0", "-c", "1024", "--json").output)
    assert other["confidence"] != "measured" and other["host"]["weights_bytes"] < GIB


def test_the_engine_confirms_an_estimate_that_is_not_exact(config: Path):
    """By a real start of the embedded engine, which is ended before it loads the weights."""
    result = run("estimate", "demo", "-fa", "off", "--ask-engine")
    assert "the engine confirms weights and context" in result.output
    exact = run("estimate", "demo", "--ask-engine")
    assert "confidence: exact" not in exact.output or "the engine" not in exact.output


def test_why_the_engine_cannot_tell_is_a_note(config: Path):
    config.write_text(json.dumps({"engine": {"binary": "/missing/llama-server"}}))
    (model,) = config.parent.glob("*.gguf")
    result = run("estimate", str(model), "-fa", "off", "--ask-engine")
    assert result.exit_code == 0 and "no engine can be asked: engine.binary" in result.output
