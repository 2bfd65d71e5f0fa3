"""A request that crashes its engine, while others use the same model."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.helpers.service import Service, wait_for
from tests.service.test_faults import error_of, faulty, journal

KILLER = "kill it"


def send(service: Service, text: str):
    return service.chat("m", messages=[{"role": "user", "content": text}])


def test_a_request_that_crashes_the_engine_locks_nobody_else_out(tmp_path: Path):
    """Another user of the model got 1 of 44 answers while it was sent once a second."""
    with faulty(tmp_path, FAKE_DIE_ON=KILLER, FAKE_PORT_ZERO=1) as service, ThreadPoolExecutor(1) as pool:
        answers = []
        for number in range(8):
            killer = pool.submit(send, service, KILLER)
            time.sleep(0.05)
            answers.append(send(service, f"hello {number}").status_code)
            assert killer.result().status_code in (502, 422)
        assert answers.count(200) >= 6, answers  # those in flight at the first crash and at the second may fail
        refused = send(service, KILLER)
        assert (refused.status_code, error_of(refused)["code"]) == (422, "request_crashes_engine")
        assert refused.headers["x-should-retry"] == "false"
        assert len(journal(service, "start")) == 3, "two crashes"
        assert 'suspect_requests{action="refuse"} 1.0' in service.get("/metrics").text
        wait_for(lambda: "request_hash=" in service.output, 10)
        assert KILLER not in service.output
