"""Bookings follow the memory that llama-server reports and takes, in the running service."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.builders import MIB, a_gguf
from tests.helpers.fixed_ram import RAM_BYTES
from tests.helpers.service import serving, wait_for
from tests.service.test_faults import error_of, faulty, journal
from workers.measurement.model_history import BASE_BYTES

TOTAL_MIB = RAM_BYTES // MIB


def booked(service) -> list[int]:
    return [server["expected_bytes"] for server in service.servers()]


def needs(service, model: str) -> list[tuple[int, str]]:
    """(MiB, confidence) booked for each start of the model."""
    spawned = re.findall(rf"spawn server=\d+ model={model} device=cpu book_mib=(\d+) confidence=(\w+)", service.output)
    return [(int(mib), how) for mib, how in spawned]


def test_a_start_that_needs_more_than_the_machine_has_is_stopped_before_its_weights_load(tmp_path: Path):
    """A file of 128 bytes was booked with 147; the client gets the size that llama-server reports."""
    with faulty(tmp_path, FAKE_BREAKDOWN=f"{2 * TOTAL_MIB},100,10", FAKE_LOAD_SECONDS=20, FAKE_PORT_ZERO=1) as service:
        refused = service.chat("m")
        assert (refused.status_code, error_of(refused)["code"]) == (422, "model_does_not_fit")
        # 1 MiB: rounding
        assert error_of(refused)["needed_bytes"] == (2 * TOTAL_MIB + 111) * MIB + BASE_BYTES
        assert not service.servers()
        assert (len(journal(service, "start")), journal(service, "weights")) == (1, [])
        assert error_of(service.chat("m"))["needed_bytes"] == error_of(refused)["needed_bytes"]
        assert len(journal(service, "start")) == 1, "its report is remembered"


def test_a_start_that_needs_more_memory_than_is_free_evicts_others(tmp_path: Path):
    with faulty(tmp_path, FAKE_BREAKDOWN=f"{TOTAL_MIB * 6 // 10},100,10", FAKE_PORT_ZERO=1) as service:
        a_gguf(tmp_path / "models" / "n.gguf")
        service.get("/v1/models?reload=1")
        assert service.chat("m").status_code == 200
        assert service.chat("n").status_code == 200, "both do not fit; the idle one went"
        assert [server["model_id"] for server in service.servers()] == ["n"]
        # m; n, stopped after its report; n again, after the eviction
        assert len(journal(service, "start")) == 3
        assert "n: its llama-server needs" in service.output


def test_a_booking_follows_the_report_and_then_the_measurement(tmp_path: Path):
    with faulty(tmp_path, FAKE_BREAKDOWN="900,90,9", FAKE_LOAD_SECONDS=1, FAKE_PORT_ZERO=1) as service:
        a_gguf(tmp_path / "models" / "large.gguf", 3000 * MIB)
        service.get("/v1/models?reload=1")
        assert service.post("/models/load", {"model": "large"}).status_code == 200
        reported = [1000 * MIB + BASE_BYTES]
        wait_for(lambda: booked(service) == reported, 5, lambda: booked(service))
        wait_for(lambda: booked(service) != reported, 5, lambda: service.output)
        (server,) = service.servers()
        assert server["expected_bytes"] == server["reported_bytes"]
        assert 0 < server["reported_bytes"] - 999 * MIB < 200 * MIB, "the buffers and what the process itself holds"
        # tensors, 8 MiB of masks and inputs of a graph without widths, and the process itself
        ((mib, confidence),) = needs(service, "large")
        assert (3064 < mib < 3200, confidence) == (True, "low")


def test_a_build_without_memory_reports_keeps_its_booking(tmp_path: Path):
    with faulty(tmp_path, FAKE_PORT_ZERO=1) as service:
        assert service.chat("m").status_code == 200
        assert service.servers()[0]["reported_bytes"] is None
        assert BASE_BYTES < booked(service)[0] < BASE_BYTES + 64 * MIB


def test_the_second_start_of_the_embedded_engine_uses_measurements(tmp_path: Path):
    """The first start of the demo model is booked by its header, the second by the engine's figures."""
    for mib_expected, how in ((range(60, 400), "modelled"), (range(180, 400), "measured")):
        with serving(tmp_path, ENGINE__BINARY="embedded") as service:
            assert service.chat("demo").status_code == 200
            wait_for(lambda s=service: "measured server=1" in s.output, 5, lambda s=service: s.output)
            ((mib, confidence),) = needs(service, "demo")
            assert (mib in mib_expected, confidence) == (True, how)
            assert "projected server=1" in service.output
            assert 180 < booked(service)[0] / MIB < 400, "160 of context, some graph, some process"
            assert service.stop() == 0


@pytest.mark.parametrize("content", [b"", b"no database " * 1000])
def test_a_broken_history_is_only_a_warning(tmp_path: Path, content: bytes):
    folder = tmp_path / "state" / "llama-smart-proxy"
    folder.mkdir(parents=True)
    (folder / "history.sqlite3").write_bytes(content)
    with faulty(tmp_path, FAKE_BREAKDOWN="900,90,9", FAKE_PORT_ZERO=1) as service:
        assert service.chat("m").status_code == 200
        assert ("cannot be used" in service.output) == bool(content)
