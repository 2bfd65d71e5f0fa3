"""Reading the GPUs: the real nvidia-ml-py, with a fake libnvidia-ml.so.1 that each test configures."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pynvml
import pytest

from app.entities.gpu import Gpu, GpuSnapshot, GpuState, Program
from app.entities.placement import CpuFallback
from app.use_cases.placement.usable_gpus import unplaceable_reason
from tests.helpers.builders import MIB
from tests.helpers.stand_in_nvml import Card, StandIn, an_a100, library, needs_compiler
from workers.gpu.expected_gpus import GpuHistory, evidence_of_gpus
from workers.gpu.nvml import Nvml
from workers.gpu.nvml_errors import LOST, MISMATCH, UNLISTED

pytestmark = pytest.mark.integration


@pytest.fixture
def hardware(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    ctypes.CDLL(str(library()))  # from now on it is what this process loads by that name
    stand_in = StandIn(tmp_path)
    monkeypatch.setenv("STAND_IN_NVML", str(stand_in.path))
    yield stand_in
    with contextlib.suppress(pynvml.NVMLError):  # until nothing is left open that the next test would find
        while True:
            pynvml.nvmlShutdown()


def uuids(snapshot: GpuSnapshot) -> list[str]:
    return [gpu.uuid for gpu in snapshot.gpus]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


@needs_compiler
def test_every_field_of_a_gpu_is_read(hardware: StandIn):
    hardware.show(Card(processes={os.getpid(): 500}))
    snapshot = Nvml().read_gpus()
    assert (snapshot.state, snapshot.problem, snapshot.problems) == (GpuState.OK, "", ())
    assert (snapshot.driver_version, snapshot.cuda_version) == ("580.10", "13.0")
    assert snapshot.gpus == (
        Gpu(
            uuid="GPU-aaaa",
            index=0,
            name="NVIDIA GeForce RTX 4090",
            pci_bus="00000000:01:00.0",
            total_bytes=24564 * MIB,
            free_bytes=(24564 - 300 - 500) * MIB,
            used_bytes=(300 + 500) * MIB,
            utilization_percent=7,
            temperature_celsius=41,
            power_watts=22.5,
            compute_capability=(8, 9),
            processes={os.getpid(): 500 * MIB},
        ),
    )


@needs_compiler
@pytest.mark.parametrize(
    ("card", "drives_display"),
    [(Card(), False), (Card(flags=("display",)), True), (Card(flags=("no_display",)), False)],
)
def test_a_gpu_drives_a_display_only_if_nvml_says_so(hardware: StandIn, card: Card, drives_display: bool):
    hardware.show(card)
    (gpu,) = Nvml().read_gpus().gpus
    assert gpu.drives_display is drives_display


@needs_compiler
def test_a_closed_nvml_lets_the_hardware_sleep_and_the_next_reading_opens_it(hardware: StandIn):
    hardware.show(Card("GPU-a"), Card("GPU-b", bus="00000000:02:00.0"))
    nvml = Nvml()
    assert uuids(nvml.read_gpus()) == ["GPU-a", "GPU-b"]
    assert hardware.is_open(os.getpid())
    nvml.close()
    nvml.close()
    assert not hardware.is_open(os.getpid())
    hardware.show(Card("GPU-b", bus="00000000:02:00.0"))
    snapshot = nvml.read_gpus()
    assert hardware.is_open(os.getpid())
    assert (uuids(snapshot), [gone.uuid for gone in snapshot.missing]) == (["GPU-b"], ["GPU-a"])
    nvml.close()


@needs_compiler
@pytest.mark.parametrize("fault", ["error nvmlInitWithFlags 9", "error nvmlInitWithFlags 999", "error all 15"])
def test_a_closed_nvml_that_does_not_open_again_is_a_state(hardware: StandIn, fault: str):
    hardware.show(Card())
    nvml = Nvml(poll_seconds=0)  # keeps no reading
    nvml.read_gpus()
    nvml.close()
    hardware.show(Card(), faults=(fault,))
    assert not nvml.read_gpus().has_usable_gpu
    hardware.show(Card())
    assert nvml.read_gpus().has_usable_gpu
    nvml.close()
    assert not hardware.is_open(os.getpid())


@needs_compiler
def test_memory_follows_the_processes(hardware: StandIn, sleeper: subprocess.Popen[bytes]):
    hardware.show(Card(used_mib=0, processes={sleeper.pid: 700}))
    nvml = Nvml()
    assert nvml.read_gpus().gpus[0].used_bytes == 700 * MIB
    sleeper.kill()
    sleeper.wait()
    (gpu,) = nvml.read_gpus().gpus
    assert (gpu.used_bytes, gpu.processes) == (0, {})


FIELDS = {
    "no_utilization": ["utilization_percent"],
    "no_temperature": ["temperature_celsius"],
    "no_power": ["power_watts"],
    "no_pci": ["pci_bus"],
    "no_capability": ["compute_capability"],
    "no_processes": ["processes"],
    "no_mig": [],
    "no_display": [],
}


@needs_compiler
@pytest.mark.parametrize("flag", FIELDS)
def test_an_unsupported_field_is_none_and_no_error(hardware: StandIn, flag: str):
    hardware.show(Card(flags=(flag,)))
    snapshot = Nvml().read_gpus()
    assert (snapshot.state, snapshot.errors) == (GpuState.OK, {})
    unknown = {name for name in Gpu.__dataclass_fields__ if getattr(snapshot.gpus[0], name) is None}
    assert sorted(unknown - {"memory_at", "vulkan_number"}) == sorted(FIELDS[flag])


@needs_compiler
def test_a_field_that_fails_is_none_and_counted(hardware: StandIn):
    hardware.show(Card(), faults=("error nvmlDeviceGetPowerUsage 999",))
    snapshot = Nvml().read_gpus()
    assert (snapshot.gpus[0].power_watts, snapshot.errors) == (None, {"Unknown": 1})


@needs_compiler
def test_the_temperature_of_an_older_driver_is_read_by_the_older_call(hardware: StandIn):
    hardware.show(Card(flags=("old_temperature",)))
    assert Nvml().read_gpus().gpus[0].temperature_celsius == 41


@needs_compiler
def test_hidden_pids_and_bytes_are_none(hardware: StandIn):
    """As in a container without the host's pids, and with the driver model of Windows."""
    hardware.show(
        Card("GPU-a", used_mib=0, processes={os.getpid(): 9}, flags=("hidden_pids",)),
        Card("GPU-b", used_mib=0, processes={os.getpid(): 9}, flags=("no_process_bytes",)),
    )
    a, b = Nvml().read_gpus().gpus
    assert (a.used_bytes, a.processes) == (9 * MIB, {})
    assert (b.used_bytes, b.processes) == (9 * MIB, {os.getpid(): None})


@needs_compiler
def test_all_processes_have_their_names(hardware: StandIn, sleeper: subprocess.Popen[bytes]):
    hardware.show(Card(processes={sleeper.pid: 500, os.getpid(): 9}, drawing={sleeper.pid: 500, os.getppid(): 80}))
    snapshot = Nvml().read_gpus()
    assert snapshot.gpus[0].listed_processes == {
        sleeper.pid: 500 * MIB,
        os.getpid(): 9 * MIB,
        os.getppid(): 80 * MIB,
    }
    assert snapshot.programs[sleeper.pid] == Program("sleep", os.getpid())
    assert snapshot.programs[os.getpid()].parent_pid == os.getppid()


# --- devices that cannot be read for a moment, or at all -----------------------------------------------

MEMORY_ERRORS = {
    *(("NotSupported", 3), ("NoPermission", 4), ("NotFound", 6), ("Timeout", 10), ("IrqIssue", 12)),
    *(("FunctionNotFound", 13), ("OperatingSystem", 17), ("InUse", 19), ("InsufficientResources", 23)),
    *(("NotReady", 27), ("InvalidState", 29), ("Unknown", 999)),
}
A_DAY, NO_TIME = 86400.0, 0.0  # as poll_seconds: every reading is recent, or none


@needs_compiler
@pytest.mark.parametrize("code", [code for _, code in sorted(MEMORY_ERRORS)])
def test_memory_that_fails_to_be_read_for_a_moment_keeps_the_last_reading(hardware: StandIn, code: int):
    """Drivers of the 580 series do that. Models went to the CPU, and stayed there."""
    hardware.show(Card(processes={os.getpid(): 500}))
    nvml = Nvml(poll_seconds=A_DAY)
    before = nvml.read_gpus()
    hardware.show(Card(utilization=99, used_mib=0), faults=(f"error nvmlDeviceGetMemoryInfo {code}",))
    snapshot = nvml.read_gpus()
    (was,), (gpu,) = before.gpus, snapshot.gpus
    assert (snapshot.state, snapshot.missing, snapshot.has_usable_gpu) == (GpuState.OK, (), True)
    assert gpu == replace(was, utilization_percent=99, problem=gpu.problem, memory_at=before.at)
    assert gpu.problem.startswith("memory cannot be read: ")
    assert snapshot.read_at("GPU-aaaa") == before.at < snapshot.at
    hardware.show(Card(used_mib=0))
    assert nvml.read_gpus().gpus == (replace(was, free_bytes=24564 * MIB, used_bytes=0, processes={}),)


@needs_compiler
@pytest.mark.parametrize("code", [code for _, code in sorted(MEMORY_ERRORS)])
def test_memory_that_cannot_be_read_any_longer_makes_the_card_missing_with_its_reason(hardware: StandIn, code: int):
    hardware.show(Card())
    nvml = Nvml(poll_seconds=NO_TIME)
    assert nvml.read_gpus().has_usable_gpu
    hardware.show(Card(), faults=(f"error nvmlDeviceGetMemoryInfo {code}",))
    snapshot = nvml.read_gpus()
    assert (snapshot.state, snapshot.gpus, snapshot.has_usable_gpu) == (GpuState.FAILED, (), False)
    (missing,) = snapshot.missing
    assert (missing.uuid, missing.index, missing.name) == ("GPU-aaaa", 0, "NVIDIA GeForce RTX 4090")
    assert missing.problem.startswith("memory cannot be read: ")
    assert snapshot.problems == (f"GPU 0 (NVIDIA GeForce RTX 4090, GPU-aaaa): {missing.problem}",)
    hardware.show(Card())
    assert (uuids(nvml.read_gpus()), nvml.read_gpus().problems) == (["GPU-aaaa"], ())


@needs_compiler
def test_a_card_that_never_told_its_memory_is_a_gpu_and_no_reason_for_the_cpu(hardware: StandIn):
    """One of another maker's driver, or in a state that only a reset ends: nothing else says that there is a GPU."""
    hardware.show(Card(flags=("no_memory",)))
    snapshot = Nvml().read_gpus()
    assert snapshot.problems == ("GPU 0 (NVIDIA GeForce RTX 4090, GPU-aaaa): memory cannot be read: Not Supported",)
    assert unplaceable_reason(snapshot, CpuFallback.AUTO)
    assert unplaceable_reason(snapshot, CpuFallback.WHEN_FULL) == ""
    hardware.show(Card(total_mib=0, used_mib=0))
    assert Nvml().read_gpus().missing[0].problem == "memory cannot be read: it is reported as 0 bytes"


@needs_compiler
def test_one_of_two_cards_that_cannot_be_read_is_named_and_the_other_is_used(hardware: StandIn):
    a, b = Card("GPU-a"), Card("GPU-b", flags=("memory_fails",), bus="00000000:02:00.0")
    hardware.show(a, b)
    snapshot = Nvml().read_gpus()
    assert (snapshot.has_usable_gpu, uuids(snapshot)) == (True, ["GPU-a"])
    assert snapshot.problems == ("GPU 1 (NVIDIA GeForce RTX 4090, GPU-b): memory cannot be read: Unknown Error",)
    assert snapshot.errors == {"Unknown": 1}
    assert Nvml("GPU-a").read_gpus().problems == (), "the other is hidden from this service"
    assert Nvml("1").read_gpus().problems == snapshot.problems, "it is the only one that this service may use"


@needs_compiler
@pytest.mark.parametrize("call", ["nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetUUID"])
def test_cards_that_cannot_be_listed_for_a_moment_keep_their_last_reading(hardware: StandIn, call: str):
    a, b = Card("GPU-a"), Card("GPU-b", bus="00000000:02:00.0")
    hardware.show(a, b)
    nvml = Nvml(poll_seconds=A_DAY)
    before = nvml.read_gpus()
    hardware.show(a, b, faults=(f"error {call} 999",))
    snapshot = nvml.read_gpus()
    assert (snapshot.state, uuids(snapshot), snapshot.missing) == (GpuState.OK, ["GPU-a", "GPU-b"], ())
    assert {gpu.memory_at for gpu in snapshot.gpus} == {before.at}
    hardware.show(a, b)
    assert [gpu.memory_at for gpu in nvml.read_gpus().gpus] == [None, None]


@needs_compiler
def test_a_card_whose_handle_is_lost_for_longer_is_missing_and_the_others_remain(hardware: StandIn):
    a, b = Card("GPU-a"), Card("GPU-b", bus="00000000:02:00.0")
    hardware.show(a, b)
    nvml = Nvml(poll_seconds=NO_TIME)
    nvml.read_gpus()
    hardware.show(a, b, faults=("error nvmlDeviceGetHandleByIndex_v2 999",))
    snapshot = nvml.read_gpus()
    assert (snapshot.state, uuids(snapshot)) == (GpuState.LOST, [])
    assert [each.uuid for each in snapshot.missing] == ["GPU-a", "GPU-b"]


@needs_compiler
@pytest.mark.parametrize("call", ["nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetUUID"])
def test_a_card_that_fails_from_the_start_is_missing_although_nothing_else_says_that_there_is_one(
    hardware: StandIn, call: str
):
    hardware.show(Card(), faults=(f"error {call} 999",))
    snapshot = Nvml().read_gpus()
    assert (snapshot.state, snapshot.problems) == (GpuState.FAILED, ("GPU 0 (unknown): Unknown Error",))
    assert unplaceable_reason(snapshot, CpuFallback.AUTO)


@needs_compiler
def test_a_utilization_that_cannot_be_read_does_not_make_the_card_missing(hardware: StandIn):
    hardware.show(Card(), faults=("error nvmlDeviceGetUtilizationRates 999",))
    snapshot = Nvml().read_gpus()
    assert (snapshot.has_usable_gpu, snapshot.gpus[0].utilization_percent, snapshot.problems) == (True, None, ())


@needs_compiler
def test_mig_devices_replace_their_card(hardware: StandIn):
    parts = (Card("MIG-1", "A100 MIG 3g.40gb", 40192), Card("MIG-2", "A100 MIG 4g.40gb", 40192))
    hardware.show(Card(), an_a100(parts=parts))
    nvml = Nvml()
    found = [(gpu.uuid, gpu.index, gpu.is_mig) for gpu in nvml.read_gpus().gpus]
    assert found == [("GPU-aaaa", 0, False), ("MIG-1", 1, True), ("MIG-2", 1, True)]
    hardware.show(Card(), an_a100())  # put together again: nothing was lost
    snapshot = nvml.read_gpus()
    assert (uuids(snapshot), snapshot.missing) == (["GPU-aaaa", "GPU-cccc"], ())
    hardware.show(Card(), an_a100(parts=parts))  # and divided again
    snapshot = nvml.read_gpus()
    assert (uuids(snapshot), snapshot.missing) == (["GPU-aaaa", "MIG-1", "MIG-2"], ())


@needs_compiler
def test_a_gpu_is_identified_by_its_uuid_not_its_index(hardware: StandIn):
    hardware.show(Card("GPU-a"), an_a100("GPU-b"))
    nvml = Nvml()
    nvml.read_gpus()
    hardware.show(an_a100("GPU-b"), Card("GPU-a"))
    snapshot = nvml.read_gpus()
    assert [(gpu.uuid, gpu.index) for gpu in snapshot.gpus] == [("GPU-b", 0), ("GPU-a", 1)]
    assert snapshot.problems == ()


FAULTS = [
    (("error nvmlInitWithFlags 9",), GpuState.NO_DRIVER, "the NVIDIA driver is not loaded"),
    (("error nvmlInitWithFlags 18",), GpuState.VERSION_MISMATCH, MISMATCH),
    (("error nvmlInitWithFlags 999",), GpuState.FAILED, "NVML error: Unknown Error"),
    (("error nvmlInitWithFlags 4",), GpuState.FAILED, "NVML error: Insufficient Permissions"),
    (("error nvmlDeviceGetCount_v2 9",), GpuState.NO_DRIVER, "the NVIDIA driver is not loaded"),
    (("error nvmlDeviceGetCount_v2 1",), GpuState.FAILED, "NVML error: Uninitialized"),
    (("error nvmlDeviceGetUUID 18",), GpuState.VERSION_MISMATCH, MISMATCH),
    (("error nvmlDeviceGetMemoryInfo 9",), GpuState.NO_DRIVER, "the NVIDIA driver is not loaded"),
    (("error nvmlDeviceGetHandleByIndex_v2 999",), GpuState.FAILED, "Unknown Error"),
]


@needs_compiler
@pytest.mark.parametrize(("faults", "state", "problem"), FAULTS)
def test_a_fault_at_the_start_is_a_state_with_its_reason_until_the_next_good_reading(
    hardware: StandIn, faults: tuple[str, ...], state: GpuState, problem: str
):
    hardware.show(Card(), faults=faults)
    nvml = Nvml()
    snapshot = nvml.read_gpus()
    assert (snapshot.state, snapshot.problem, snapshot.gpus) == (state, problem, ())
    hardware.show(Card())
    assert (nvml.read_gpus().state, uuids(nvml.read_gpus())) == (GpuState.OK, ["GPU-aaaa"])


@needs_compiler
@pytest.mark.parametrize("call", ["nvmlDeviceGetCount_v2", "nvmlDeviceGetMigMode", "nvmlDeviceGetName"])
def test_after_an_unload_of_the_driver_nvml_is_initialized_again(hardware: StandIn, call: str):
    hardware.show(Card())
    nvml = Nvml()
    assert nvml.read_gpus().state is GpuState.OK
    hardware.show(Card(), faults=(f"error {call} 1",))  # NVML reports that it was never initialized
    assert nvml.read_gpus().state is GpuState.FAILED
    hardware.unload()
    assert nvml.read_gpus().state is GpuState.NO_DRIVER
    hardware.show(Card(), faults=(f"stale_until_init {_inits() + 1}",))
    assert nvml.read_gpus().state is GpuState.OK
    assert nvml.read_gpus().errors == {"Uninitialized": 1, "DriverNotLoaded": 1}


@needs_compiler
def test_a_lost_gpu_is_missing_until_it_reappears_and_the_others_remain(hardware: StandIn):
    a, b, c = (Card(f"GPU-{name}", bus=f"00000000:0{at}:00.0") for at, name in enumerate("abc"))
    hardware.show(a, b, c)
    nvml = Nvml()
    nvml.read_gpus()
    hardware.show(a, Card("GPU-b", flags=("lost",)), c)
    snapshot = nvml.read_gpus()
    assert (snapshot.state, uuids(snapshot)) == (GpuState.OK, ["GPU-a", "GPU-c"])
    assert snapshot.problems == (f"GPU 1 (NVIDIA GeForce RTX 4090, GPU-b): {LOST}",)
    assert snapshot.errors == {"GpuIsLost": 1}
    hardware.show(a, c)  # gone from the bus, too
    assert nvml.read_gpus().problems == (f"GPU 1 (NVIDIA GeForce RTX 4090, GPU-b): {UNLISTED}",)
    hardware.show(a, b, c)
    snapshot = nvml.read_gpus()
    assert (uuids(snapshot), snapshot.problems) == (["GPU-a", "GPU-b", "GPU-c"], ())


@needs_compiler
def test_a_gpu_that_fails_between_two_calls_is_not_reported_in_part(hardware: StandIn):
    hardware.show(Card())
    nvml = Nvml()
    nvml.read_gpus()
    hardware.show(Card(), faults=("error nvmlDeviceGetPowerUsage 15",))
    snapshot = nvml.read_gpus()
    assert (snapshot.state, snapshot.gpus) == (GpuState.LOST, ())
    assert snapshot.missing[0].problem == LOST


@needs_compiler
def test_a_gpu_that_was_lost_before_the_start_is_missing(hardware: StandIn):
    a, b, c = (Card(f"GPU-{name}", bus=f"00000000:0{at}:00.0") for at, name in enumerate("abc"))
    lost = replace(b, flags=("lost",))
    hardware.show(a, lost, c)
    nvml = Nvml()
    snapshot = nvml.read_gpus()
    assert (snapshot.state, uuids(snapshot)) == (GpuState.OK, ["GPU-a", "GPU-c"])
    assert [complaint.partition(": ")[0] for complaint in snapshot.problems] == ["GPU 1 (unknown)"]
    assert Nvml("0").read_gpus().problems == (), "it may be none of this service's"
    hardware.show(a, lost)  # the one that fails may be the one that is absent
    assert [each.uuid for each in nvml.read_gpus().missing] == ["GPU-c"]
    hardware.show(a, b, c)
    assert nvml.read_gpus().problems == ()


@needs_compiler
def test_nvml_is_initialized_again_to_find_lost_gpus(hardware: StandIn):
    """Some drivers list a GPU that reappeared only then."""
    hardware.show(Card())
    nvml = Nvml(reinit_seconds=0)
    nvml.read_gpus()
    hardware.show(Card(), faults=(f"stale_until_init {10**9}",))
    assert nvml.read_gpus().state is GpuState.LOST
    hardware.show(Card(), faults=(f"stale_until_init {_inits() + 1}",))
    assert nvml.read_gpus().state is GpuState.OK


def _inits() -> int:
    return ctypes.c_int.in_dll(ctypes.CDLL(str(library())), "stand_in_inits").value


@needs_compiler
def test_a_gpu_that_is_not_passed_to_the_container_is_not_missing(hardware: StandIn):
    hardware.show(Card("GPU-a", flags=("forbidden",)), Card("GPU-b"))
    snapshot = Nvml().read_gpus()
    assert (uuids(snapshot), snapshot.problems, snapshot.errors) == (["GPU-b"], (), {})


@needs_compiler
@pytest.mark.parametrize(
    ("visible", "seen"),
    [("1", ["GPU-bb"]), ("GPU-b,GPU-a", ["GPU-bb", "GPU-aa"]), ("MIG-1", ["MIG-1"]), ("0,2", ["GPU-aa", "MIG-1"])],
)
def test_cuda_visible_devices_limits_the_gpus(hardware: StandIn, visible: str, seen: list[str]):
    hardware.show(Card("GPU-aa"), Card("GPU-bb"), an_a100(parts=(Card("MIG-1"),)))
    assert uuids(Nvml(visible).read_gpus()) == seen


@needs_compiler
def test_a_cuda_visible_devices_that_matches_nothing_is_a_complaint(hardware: StandIn):
    hardware.show(Card("GPU-aa"))
    snapshot = Nvml("GPU-zz").read_gpus()
    assert snapshot.state is GpuState.NOT_FOUND
    assert snapshot.problems == ("CUDA_VISIBLE_DEVICES=GPU-zz matches none of the 1 GPUs present",)


@needs_compiler
def test_a_lost_gpu_hidden_from_the_service_is_ignored(hardware: StandIn):
    hardware.show(Card("GPU-aa"), Card("GPU-bb"))
    nvml = Nvml("GPU-aa")
    nvml.read_gpus()
    hardware.show(Card("GPU-aa"))
    assert nvml.read_gpus().problems == ()


def test_without_the_library_the_state_is_no_library():
    """In a separate process: this one may have loaded it."""
    code = (
        "import ctypes; from workers.gpu.nvml import Nvml\n"
        "def no(name, *rest, **more): raise OSError(name)\n"
        "import pynvml; pynvml.CDLL = no; print(Nvml().read_gpus())"
    )
    assert "GpuState.NO_LIBRARY" in _printed(code)


def test_without_the_package_the_state_is_no_package():
    code = "import sys; sys.modules['pynvml'] = None; from workers.gpu.nvml import Nvml; print(Nvml().read_gpus())"
    printed = _printed(code)
    assert "GpuState.NO_PACKAGE" in printed and "nvidia-ml-py" in printed


def _printed(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


# --- whether there should be GPUs ---------------------------------------------------------------------


def a_pci_device(root: Path, address: str, vendor: str, kind: str) -> None:
    folder = root / "sys/bus/pci/devices" / address
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(f"{vendor}\n")
    (folder / "class").write_text(f"{kind}\n")


def test_there_is_no_evidence_on_a_machine_that_never_had_a_gpu(tmp_path: Path):
    a_pci_device(tmp_path, "0000:00:02.0", "0x8086", "0x030000")  # graphics, not NVIDIA's
    a_pci_device(tmp_path, "0000:01:00.1", "0x10de", "0x040300")  # NVIDIA's, sound
    (tmp_path / "sys/bus/pci/devices/0000:03:00.0").mkdir()
    assert evidence_of_gpus(GpuHistory(tmp_path / "gpus.json"), tmp_path) == ""


@pytest.mark.parametrize("kind", ["0x030000", "0x030200"])
def test_a_gpu_on_the_pci_bus_is_evidence(tmp_path: Path, kind: str):
    a_pci_device(tmp_path, "0000:01:00.0", "0x10de", kind)
    assert "on the PCI bus (0000:01:00.0)" in evidence_of_gpus(GpuHistory(tmp_path / "gpus.json"), tmp_path)


def test_a_loaded_kernel_module_is_evidence(tmp_path: Path):
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    assert "/proc/driver/nvidia" in evidence_of_gpus(GpuHistory(tmp_path / "gpus.json"), tmp_path)


def test_a_jetsons_kernel_module_is_evidence(tmp_path: Path):
    """Its GPU is on no PCI bus, and older systems (JetPack 5) have no NVML: models ran on the CPU."""
    (tmp_path / "sys/module/nvgpu").mkdir(parents=True)
    assert "a Jetson's GPU" in evidence_of_gpus(GpuHistory(tmp_path / "gpus.json"), tmp_path)


def test_gpus_seen_before_are_evidence(tmp_path: Path):
    file = tmp_path / "state" / "gpus.json"
    GpuHistory(file).add([Gpu("GPU-a", 0, "RTX 4090"), Gpu("MIG-b", 1, "A100 MIG", is_mig=True)])
    assert json.loads(file.read_text()) == {"GPU-a": "RTX 4090"}
    advice = f"if removed for good, delete {file} and restart"
    assert evidence_of_gpus(GpuHistory(file), tmp_path) == f"seen before: RTX 4090 ({advice})"


@pytest.mark.parametrize("text", ["", "[1]", "{broken"])
def test_a_broken_gpu_history_is_empty(tmp_path: Path, text: str):
    (tmp_path / "gpus.json").write_text(text)
    assert evidence_of_gpus(GpuHistory(tmp_path / "gpus.json"), tmp_path) == ""


def test_a_state_directory_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "file").write_text("")
    seen = GpuHistory(tmp_path / "file" / "gpus.json")
    seen.add([Gpu("GPU-a", 0, "RTX 4090")])
    assert "cannot record the GPUs that were seen" in caplog.text
    assert seen.names() == "RTX 4090"
