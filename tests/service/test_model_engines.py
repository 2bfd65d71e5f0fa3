"""Models with engines of their own: what each is started with, which GPUs it gets, and what is said when it is gone."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.helpers.fake_llama_server import install_fake
from tests.helpers.service import Service, serving, wait_for
from tests.helpers.stand_in_nvml import Card, StandIn, needs_compiler
from workers.catalog.demo_model import write_demo_model
from workers.engine import embedded_engine

# The embedded engine as another build: with a version and an option of its own, and without two that it has.
FORK = """\
#!/bin/sh
case "$1" in
--version) echo "version: 4711 (fork)" ;;
--help) {engine} --help | grep -v -e --cache-ram -e --metrics ;;
*) exec {engine} --keep 7 "$@" ;;
esac
"""


def a_fork(folder: Path) -> Path:
    folder.mkdir()
    path = folder / "llama-server"
    path.write_text(FORK.format(engine=f"{sys.executable} -P {embedded_engine.__file__}"))
    path.chmod(0o755)
    return path


def a_configuration(folder: Path, models: dict[str, Any], **sections: Any) -> Path:
    """Of models that all have the file of the demo."""
    file = str(write_demo_model(folder / "files"))
    path = folder / "config.yaml"
    path.write_text(
        yaml.safe_dump({"models": {name: {"path": file} | keys for name, keys in models.items()}, **sections})
    )
    return path


def process_of(service: Service, model: str) -> psutil.Process:
    (pid,) = (server["process"] for server in service.servers() if server["model_id"] == model)
    return psutil.Process(pid)


def error_of(answer: Any) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    return error


def test_each_model_is_started_with_its_own_engine(tmp_path: Path):
    fork, nowhere = a_fork(tmp_path / "fork"), "/nowhere/llama-server"
    models = {
        "plain": {"tensor_overrides": ["expz=CPU"]},
        "forked": {"engine": str(fork)},
        "stranded": {"engine": nowhere},
    }
    config = a_configuration(tmp_path, models)
    with serving(tmp_path, "--config", str(config)) as service:
        assert [service.chat(name).status_code for name in ("plain", "forked")] == [200, 200], service.output
        plain, forked = (process_of(service, name).cmdline() for name in ("plain", "forked"))
        assert ("--keep" in plain, "--cache-ram" in plain, "--metrics" in plain) == (False, True, True)
        assert ("--keep" in forked, "--cache-ram" in forked, "--metrics" in forked) == (True, False, False)

        assert "model=plain tensor_overrides: no tensor of the model matches 'expz'" in service.output

        refused = service.chat("stranded")
        assert (refused.status_code, error_of(refused)["code"]) == (503, "no_engine")
        words = f"engine {nowhere!r} does not exist. Next: correct it, or set engine to auto"
        assert error_of(refused)["message"] == f"stranded has an engine of its own: {words}"
        assert any(line.endswith(f"models.stranded.engine: {words}") for line in service.lines)

        health = service.get("/health").json()
        assert health["reasons"] == [f"models.stranded.engine: {words}"]
        assert {each["model_id"]: each["engine"] for each in health["servers"]} == {"plain": None, "forked": str(fork)}
        assert {each["engine"]: (each["version"], each["models"]) for each in health["model_engines"]} == {
            str(fork): ("4711 (fork)", ["forked"]),
            nowhere: (None, ["stranded"]),
        }
        listed = {each["id"]: each.get("engine") for each in service.get("/v1/models").json()["data"]}
        assert (listed["plain"], listed["forked"]["version"]) == (None, "4711 (fork)")
        decided = {each["model"]: each.get("engine") for each in service.get("/decisions").json()["decisions"]}
        assert decided == {"plain": None, "forked": str(fork)}
        metrics = service.get("/metrics").text
        assert "llama_smart_proxy_degraded_reasons 1.0" in metrics
        assert 'llama_smart_proxy_engine_info{kind="binary",version="4711 (fork)"} 1.0' in metrics
        (shown,) = (each for each in service.get("/status").json()["servers"] if each["model"] == "forked")
        assert shown["engine"] == str(fork)

        # Another engine is another server.
        before = process_of(service, "forked")
        a_configuration(tmp_path, models | {"forked": {"engine": "embedded"}, "stranded": {"engine": str(fork)}})
        service.process.send_signal(signal.SIGHUP)
        wait_for(lambda: not before.is_running(), 20, lambda: service.output)
        assert service.chat("forked").status_code == 200
        assert "--cache-ram" in process_of(service, "forked").cmdline()
        assert service.chat("stranded").status_code == 200, "its engine is there now"
        assert "--keep" in process_of(service, "stranded").cmdline()

        # It disappears: its model cannot be loaded, the others can.
        fork.unlink()
        for name in ("plain", "stranded"):
            service.post("/models/unload", {"model": name})
        refused = service.chat("stranded")
        assert refused.status_code == 503
        assert f"engine {str(fork)!r} does not exist. Next: " in error_of(refused)["message"]
        assert service.chat("plain").status_code == 200


@needs_compiler
def test_each_engine_gets_the_gpus_that_it_can_use(tmp_path: Path):
    """As with a build for CUDA 12 beside one for CUDA 13, which no longer supports the older GPU."""
    hardware = StandIn(tmp_path / "hardware")
    hardware.show(Card("GPU-a", bus="00000000:01:00.0"), Card("GPU-b", "Old", bus="00000000:02:00.0"))
    engines = {
        name: str(install_fake(tmp_path / name, FAKE_PORT_ZERO=1, **fake))
        for name, fake in (
            ("new", {"FAKE_CARDS": "GPU-a"}),
            ("old", {"FAKE_CARDS": "GPU-b"}),
            ("slow", {"FAKE_DEVICES": ""}),
        )
    }
    models = {"m": {}, "on-old": {"engine": engines["old"]}, "on-cpu": {"engine": engines["slow"]}}
    config = a_configuration(tmp_path, models, engine={"binary": engines["new"]})
    with serving(tmp_path, "--config", str(config), plain=hardware.environment, GPU__POLL_SECONDS="0.1") as service:
        assert [service.chat(name).status_code for name in models] == [200, 200, 200]
        devices = {each["model_id"]: each["device"] for each in service.servers()}
        assert devices == {"m": "cuda:0", "on-old": "cuda:1", "on-cpu": "cpu"}
        visible = {name: process_of(service, name).environ()["CUDA_VISIBLE_DEVICES"] for name in models}
        assert visible == {"m": "GPU-a", "on-old": "GPU-b", "on-cpu": ""}
        (reason,) = service.get("/health").json()["reasons"]
        assert reason.startswith("models.on-cpu.engine: the engine (3091 (fake)) has no CUDA")
        wait_for(lambda: f"WARNING [gpus] workers.gpu_watch: {reason}" in service.output, 10, lambda: service.output)
        assert "models.on-old.engine: GPU 0: the engine cannot use it" in service.output
