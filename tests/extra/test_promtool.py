"""Checks /metrics and the files of deploy/prometheus with Prometheus's promtool."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.helpers.service import serving, wait_for
from tests.helpers.stand_in_nvml import Card, StandIn, an_a100, needs_compiler

DEPLOYED = Path(__file__).resolve().parents[2] / "deploy/prometheus"


def promtool(*arguments: str, folder: Path) -> tuple[int, str]:
    done = subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_promtool_accepts_the_configuration_and_the_rules(tmp_path: Path):
    folder = shutil.copytree(DEPLOYED, tmp_path / "prometheus")
    (folder / "key").write_text("secret")
    status, output = promtool("check", "config", "prometheus.yml", folder=folder)
    assert status == 0 and output.count("rules found") == 2, output


def test_each_alert_fires_when_it_should_and_not_before():
    status, output = promtool("test", "rules", "rules_test.yml", folder=DEPLOYED)
    assert status == 0 and "SUCCESS" in output, output


def check(page: str) -> tuple[int, str]:
    done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_promtool_accepts_the_metrics(tmp_path: Path):
    with serving(tmp_path) as service:
        assert service.chat().status_code == 200
        # A request is counted shortly after its answer was received; promtool accepts an empty page.
        wait_for(lambda: "llama_smart_proxy_requests_total{" in service.get("/metrics").text, 10)
        wait_for(lambda: "llamacpp_" in service.get("/metrics").text, 60)  # read every 15 s
        page = service.get("/metrics").text
    assert check(page) == (0, "")


@needs_compiler
def test_promtool_accepts_the_metrics_of_gpus(tmp_path: Path):
    hardware = StandIn(tmp_path / "hardware")
    hardware.show(Card(), an_a100(), faults=("error nvmlDeviceGetPowerUsage 999",))
    with serving(tmp_path, plain=hardware.environment) as service:
        wait_for(lambda: "GPU-cccc" in service.get("/metrics").text, 20)
        page = service.get("/metrics").text
    assert check(page) == (0, "")
