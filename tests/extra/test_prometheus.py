"""A real Prometheus with the shipped configuration scrapes a real service whose fake GPU is lost.

Changed for the test: the service's port, the scrape and evaluation intervals (15 s) and the `for` of the alert (1 min).
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.helpers.service import Service, serving, wait_for
from tests.helpers.stand_in_nvml import Card, StandIn, an_a100, needs_compiler
from tests.telemetry.test_monitoring_files import board_expressions

DEPLOYED = Path(__file__).resolve().parents[2] / "deploy/prometheus"
KEY, HASH = "secret", "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
SCRAPED_SECONDS = 60
QUICK = "1s"
WITHOUT_SERIES = {"Who waits", "Rejected", "Evictions", "Stops"}  # panels of what has not happened

pytestmark = needs_compiler


class Prometheus:
    def __init__(self, folder: Path, service: str) -> None:
        shutil.copytree(DEPLOYED, folder)
        (folder / "key").write_text(KEY)
        self._change(folder / "prometheus.yml", "127.0.0.1:8080", service.removeprefix("http://"))
        self._change(folder / "prometheus.yml", "interval: 15s", f"interval: {QUICK}")
        self._change(folder / "alerts.yml", r"(gpu_missing == 1\n +for): 1m", rf"\1: {QUICK}")
        self.url = f"http://127.0.0.1:{_free_port()}"
        command = ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=warn"]
        command.append(f"--web.listen-address={self.url.removeprefix('http://')}")
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(command, cwd=folder, stderr=log)
        wait_for(self._is_ready, 40, (folder / "log").read_text)

    @staticmethod
    def _change(path: Path, shipped: str, new: str) -> None:
        text, count = re.subn(shipped, new, path.read_text())
        assert count, shipped
        path.write_text(text)

    def _is_ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/-/ready", timeout=5).ok
        except requests.ConnectionError:
            return False

    def get(self, path: str, **parameters: str) -> Any:
        answer = requests.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=10).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def value(self, expression: str) -> float | None:
        """Of the first series."""
        result = self.get("query", query=expression)["result"]
        return float(result[0]["value"][1]) if result else None

    def firing(self) -> dict[str, dict[str, str]]:
        """The labels of each alert that fires, by its name."""
        alerts = [each for each in self.get("alerts")["alerts"] if each["state"] == "firing"]
        return {each["labels"]["alertname"]: each["labels"] for each in alerts}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def hardware(tmp_path: Path) -> StandIn:
    stand_in = StandIn(tmp_path / "hardware")
    stand_in.show(Card(), an_a100())
    return stand_in


@pytest.fixture
def service(tmp_path: Path, hardware: StandIn) -> Iterator[Service]:
    keys = f'[{{"name": "prometheus", "sha256": "{HASH}"}}]'
    with serving(tmp_path / "service", plain=hardware.environment, KEYS=keys) as running:
        yield running


@pytest.fixture
def prometheus(tmp_path: Path, service: Service) -> Iterator[Prometheus]:
    running = Prometheus(tmp_path / "prometheus", service.url)
    yield running
    running.process.terminate()
    running.process.wait(20)


def test_prometheus_finds_the_service_and_the_alert_for_a_lost_gpu_fires(
    prometheus: Prometheus, service: Service, hardware: StandIn
):
    wait_for(lambda: prometheus.value("llama_smart_proxy_gpu_info"), 120)
    (target,) = prometheus.get("targets")["activeTargets"]
    assert (target["labels"]["instance"], target["lastError"]) == (service.url.removeprefix("http://"), "")
    for _ in range(SCRAPED_SECONDS):
        assert chat(service) == 200
        time.sleep(1)
        assert (prometheus.value("up"), prometheus.firing()) == (1, {})
    assert_expressions_are_answered(prometheus)

    hardware.show(Card())
    fired = wait_for(lambda: prometheus.firing().get("LlamaSmartProxyGpuMissing"), 100)
    assert (fired["uuid"], fired["severity"]) == ("GPU-cccc", "critical")
    hardware.show(Card(), an_a100())
    wait_for(lambda: not prometheus.firing(), 100)


def chat(service: Service) -> int:
    body = {"model": "demo", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 4}
    return service.post("/v1/chat/completions", body, headers={"Authorization": f"Bearer {KEY}"}).status_code


def assert_expressions_are_answered(prometheus: Prometheus) -> None:
    """By series, those of the dashboard: of keys, servers and engines, too."""
    shown = set()
    for title, expression in board_expressions():
        text = expression.replace("$__rate_interval", "1m")
        if prometheus.get("query", query=re.sub(r"\$(?!1)\w+", ".*", text))["result"]:
            shown.add(title)
    assert {title for title, _ in board_expressions()} - shown == WITHOUT_SERIES
