"""A CPU mask set on the service, such as CPUAffinity= in its systemd unit, also applies to its llama-servers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.service import FIXED_RAM, serving

CPUS = os.sched_getaffinity(0)


@pytest.fixture
def pinned_cpu() -> Iterator[int]:
    """One CPU, to which this thread is pinned: the processes it starts inherit its mask."""
    cpu = max(CPUS)
    os.sched_setaffinity(0, {cpu})
    yield cpu
    os.sched_setaffinity(0, CPUS)


@pytest.mark.skipif(len(CPUS) < 2, reason="needs two CPUs")
def test_an_engine_inherits_the_services_cpu_mask(tmp_path: Path, pinned_cpu: int):
    with serving(tmp_path, program=("-P", FIXED_RAM)) as service:
        assert service.chat().status_code == 200
        masks = [process.cpu_affinity() for process in (service.master, service.worker, *service.engines())]
    assert masks == [[pinned_cpu]] * 3
