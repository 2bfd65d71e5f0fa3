"""What a reload does with a configuration that fails late, and with reloads that cannot run. Starts no service."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.errors import Draining, InvalidConfiguration, Overloaded
from app.settings.configuration import ConfigurationError
from app.settings.schema import Settings
from app.use_cases.scheduling.pool_state import PoolState
from tests.helpers.builders import a_model
from tests.helpers.service import wait_for
from workers.reload import MAX_RELOADS, CheckedConfiguration, ConfigurationReload
from workers.telemetry.store import StateStore


class Parts:
    """A reload whose preparation does as a test says, over a catalogue of one model."""

    def __init__(self, draining: bool = False) -> None:
        self.store = StateStore(PoolState(draining=draining))
        self.scans = 0
        self.warnings = ("model m cannot be served: truncated",)
        self.applied: list[Settings] = []
        catalog: Any = self
        self.reloader = ConfigurationReload(Settings(), self.store, catalog, self.prepare, self.apply)

    def models(self) -> list[Any]:
        return [a_model()]

    def reload(self) -> None:
        """Of the catalogue."""
        self.scans += 1

    def prepare(self, settings: Settings) -> CheckedConfiguration:
        pinned: Any = None
        catalog: Any = self
        return CheckedConfiguration(settings, catalog, pinned)

    def apply(self, checked: CheckedConfiguration, changes: object) -> None:
        self.applied.append(checked.settings)


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LLAMA_SMART_PROXY_CONFIG", raising=False)


@pytest.mark.parametrize(
    "error", [ConfigurationError("pinned models do not fit", "b"), OSError("pinned models do not fit")]
)
def test_a_failure_of_any_check_applies_nothing_and_searches_model_files(error: Exception):
    class Failing(Parts):
        def prepare(self, settings: Settings) -> CheckedConfiguration:
            raise error

    parts = Failing()
    for count in (1, 2):
        with pytest.raises(InvalidConfiguration, match="pinned models do not fit"):
            parts.reloader.reload()
        assert (parts.applied, parts.scans, parts.store.configuration.failed_reloads) == ([], count, count)
    assert parts.store.configuration.problem.endswith("pinned models do not fit")


def test_a_service_that_shuts_down_is_not_reloaded():
    parts = Parts(draining=True)
    with pytest.raises(Draining):
        parts.reloader.reload()
    assert (parts.applied, parts.scans) == ([], 0)


def test_reloads_run_one_at_a_time_and_only_a_few_wait():
    is_free = threading.Event()
    at_once, most = [0], [0]

    class Slow(Parts):
        def prepare(self, settings: Settings) -> CheckedConfiguration:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
            is_free.wait(20)
            at_once[0] -= 1
            return super().prepare(settings)

    parts = Slow()
    with ThreadPoolExecutor(MAX_RELOADS) as threads:
        running = [threads.submit(parts.reloader.reload) for _ in range(MAX_RELOADS)]
        wait_for(lambda: parts.reloader._places._value == 0, 20)
        with pytest.raises(Overloaded):
            parts.reloader.reload()
        is_free.set()
        assert all(each.result(20).changed == () for each in running)
    assert (most, len(parts.applied)) == ([1], MAX_RELOADS)
    parts.reloader.reload()


def test_the_report_says_what_was_applied_and_what_was_not(monkeypatch: pytest.MonkeyPatch, caplog: Any):
    parts = Parts()  # with the settings of before
    monkeypatch.setenv("LLAMA_SMART_PROXY_SCHEDULING__TTL_SECONDS", "5")
    monkeypatch.setenv("LLAMA_SMART_PROXY_SERVER__PORT", "9")
    monkeypatch.setenv("LLAMA_SMART_PROXY_SERVER__CPU", "1")
    with caplog.at_level("WARNING"):
        report = parts.reloader.reload()
        parts.reloader.reload()
    assert (report.changed, report.needs_restart) == (("scheduling.ttl_seconds",), ("server.port",))
    assert parts.store.configuration.needs_restart == ("server.port",)
    assert [settings.server.port for settings in parts.applied] == [8080, 8080]
    warned = [record.message for record in caplog.records if "SERVER__CPU" in record.message]
    assert len(warned) == 1, "a warning is logged once, not at every reload"
    assert (len(report.warnings), report.warnings[-1:]) == (2, parts.warnings)
    assert "truncated" not in caplog.text, "the catalogue logs its own warnings"
