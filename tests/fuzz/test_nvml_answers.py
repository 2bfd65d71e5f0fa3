"""NVML: whatever the driver answers, or fails with, is a state of the snapshot."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.entities.gpu import GpuState
from workers.gpu.nvml import Nvml

CODES = [*range(1, 30), 999]
BYTES = st.integers(0, 2**64 - 1)
PROCESSES = st.lists(st.builds(SimpleNamespace, pid=st.integers(0, 3), usedGpuMemory=st.none() | BYTES), max_size=3)
ANSWERS: dict[str, st.SearchStrategy[Any]] = {
    "nvmlInit": st.none(),
    "nvmlShutdown": st.none(),
    "nvmlSystemGetCudaDriverVersion": st.integers(0, 2**31 - 1),
    "nvmlSystemGetDriverVersion": st.sampled_from(["580.10", ""]),
    "nvmlDeviceGetCount": st.integers(0, 3),
    "nvmlDeviceGetHandleByIndex": st.integers(0, 3),
    "nvmlDeviceGetUUID": st.sampled_from(["GPU-a", "GPU-b", "MIG-a"]),
    "nvmlDeviceGetMigMode": st.sampled_from([[0, 0], [1, 1]]),
    "nvmlDeviceGetMaxMigDeviceCount": st.integers(0, 3),
    "nvmlDeviceGetMigDeviceHandleByIndex": st.integers(4, 7),
    "nvmlDeviceGetMemoryInfo": st.builds(SimpleNamespace, total=BYTES, free=BYTES, used=BYTES),
    "nvmlDeviceGetUtilizationRates": st.builds(SimpleNamespace, gpu=st.integers(0, 2**32 - 1)),
    "nvmlDeviceGetPowerUsage": BYTES,
    "nvmlDeviceGetAddressingMode": st.integers(0, 3),
    "nvmlDeviceGetDisplayActive": st.integers(0, 2),
    "nvmlDeviceGetPciInfo": st.builds(SimpleNamespace, busId=st.sampled_from(["00000000:01:00.0", b"", b"\xff"])),
    "nvmlDeviceGetName": st.sampled_from(["NVIDIA L4", ""]),
    "nvmlDeviceGetCudaComputeCapability": st.just((8, 9)),
    "nvmlDeviceGetTemperatureV": st.integers(-1000, 1000),
    "nvmlDeviceGetTemperature": st.integers(-1000, 1000),
    "nvmlDeviceGetComputeRunningProcesses": PROCESSES,
    "nvmlDeviceGetGraphicsRunningProcesses": PROCESSES,
}


FAILURES = st.sampled_from(CODES).map(pynvml.NVMLError)
DRIVERS = st.fixed_dictionaries({name: answers | answers | answers | FAILURES for name, answers in ANSWERS.items()})


def install(driver: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
    """Each function gives the same answer, or fails in the same way, at every call."""
    for name, answer in driver.items():
        patch.setattr(pynvml, name, lambda *_, answer=answer: _answer(answer))


def _answer(answer: Any) -> Any:
    if isinstance(answer, pynvml.NVMLError):
        raise answer
    return answer


@given(st.lists(DRIVERS, min_size=2, max_size=2), st.sampled_from([None, "", "0", "GPU-a", "0,GPU-b"]))
def test_any_answers_are_a_state(drivers: list[dict[str, Any]], visible: str | None):
    nvml = Nvml(visible, reinit_seconds=0)
    for driver in drivers:  # the second reading knows the GPUs of the first
        with pytest.MonkeyPatch.context() as patch:
            install(driver, patch)
            snapshot = nvml.read_gpus()
        assert (snapshot.state is GpuState.OK) == bool(snapshot.gpus)
        assert snapshot.gpus or snapshot.problem
