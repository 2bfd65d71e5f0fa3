"""`doctor` on broken machines: it names what is broken, says a fix, and exits with 1; on a good one with 0."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pynvml
import pytest
from click.testing import CliRunner

from app.commands.cli import main
from app.settings.values import PREFIX
from tests.helpers.builders import a_gguf
from tests.helpers.fake_llama_server import install_fake
from tests.helpers.stand_in_nvml import Card, StandIn, library, needs_compiler
from workers.folders import version

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),  # it forks, and pytest-xdist has threads
]


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of its own, a model, a free port, no GPUs and a fake llama-server."""
    for name in [name for name in os.environ if name.startswith((PREFIX, "CUDA_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv(PREFIX + "CONFIG", "")  # which the command sets: restored at the end
    monkeypatch.delenv(PREFIX + "CONFIG")
    for name in ("state", "cache", "config"):
        monkeypatch.setenv(f"XDG_{name.upper()}_HOME", str(tmp_path / name))
    a_gguf(tmp_path / "models" / "good.gguf")
    setting(monkeypatch, "CATALOG__MODELS_DIRS", json.dumps([str(tmp_path / "models")]))
    setting(monkeypatch, "CATALOG__HUGGING_FACE__CACHE", "off")
    setting(monkeypatch, "CATALOG__LM_STUDIO", "off")
    setting(monkeypatch, "SERVER__PORT", str(free_port()))
    setting(monkeypatch, "ENGINE__BINARY", str(install_fake(tmp_path / "bin")))
    setting(monkeypatch, "GPU__ENABLED", "false")
    return tmp_path


def setting(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(PREFIX + name, value)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def hardware(machine: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    ctypes.CDLL(str(library()))  # from now on it is what this process and its forks load by that name
    stand_in = StandIn(machine)
    monkeypatch.setenv("STAND_IN_NVML", str(stand_in.path))
    setting(monkeypatch, "GPU__ENABLED", "true")
    install_fake(machine / "bin", FAKE_CARDS="GPU-aaaa,GPU-bbbb")
    yield stand_in
    with contextlib.suppress(pynvml.NVMLError):
        while True:
            pynvml.nvmlShutdown()


def examined(*arguments: str, fixed: bool = True) -> tuple[int, list[str]]:
    """Exit status, and the findings that are not good. Each has a fix if `fixed`. Left out: CUDA's library, which no
    machine with the fake NVML has."""
    done = CliRunner().invoke(main, ["doctor", "--json", *arguments])
    report = json.loads(done.stdout)
    found = [each for each in report["findings"] if each["level"] != "ok" and each["subject"] != "CUDA"]
    assert all(each["fix"] for each in found) or not fixed
    assert report["ok"] == (done.exit_code == 0) and report["problems"] + report["warnings"] >= len(found)
    return done.exit_code, [f"{each['level']} {each['subject']}: {each['text']}" for each in found]


def test_a_machine_that_works_has_nothing_but_good_findings(machine: Path):
    done = CliRunner().invoke(main, ["doctor"])
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "no problems")
    said = [line for line in done.stdout.splitlines()[:-1] if not line.startswith("      -> ")]
    assert all(line.startswith("ok    ") for line in said)
    assert "ok    models: 1 in 1 folder" in said
    assert not (machine / "state").exists(), "it changes nothing"


def test_an_invalid_configuration_is_reported_with_the_rest(machine: Path):
    (machine / "config.yaml").write_text("colour: red\n")
    status, found = examined("--config", str(machine / "config.yaml"))
    assert (status, found[0]) == (1, f"fail configuration: {machine}/config.yaml: colour: unknown key")


def test_a_missing_configuration_file_is_wrong_use(machine: Path):
    done = CliRunner().invoke(main, ["doctor", "--config", str(machine / "none")])
    assert (done.exit_code, done.stderr) == (2, f"{machine}/none: no such file\n")


def test_an_engine_that_does_not_exist_is_a_problem(monkeypatch: pytest.MonkeyPatch):
    setting(monkeypatch, "ENGINE__BINARY", "/none/llama-server")
    assert examined() == (1, ["fail engine: engine.binary '/none/llama-server' does not exist"])


def test_a_broken_llama_server_on_the_path_is_a_warning(machine: Path, monkeypatch: pytest.MonkeyPatch):
    broken = machine / "path" / "llama-server"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\nkill -SEGV $$\n")
    broken.chmod(0o755)
    setting(monkeypatch, "ENGINE__BINARY", "auto")
    monkeypatch.setenv("PATH", f"{broken.parent}:{os.environ['PATH']}")
    status, found = examined()
    assert status == 0 and "was killed by SIGSEGV" in found[0]


def test_broken_models_and_missing_companions_are_found(machine: Path, monkeypatch: pytest.MonkeyPatch):
    (machine / "models" / "cut.gguf").write_bytes(b"GGUF")
    seeing = {"path": "good.gguf", "mmproj": "/none/mmproj.gguf"}
    setting(monkeypatch, "MODELS", json.dumps({"seeing": seeing, "gone": {"path": "gone.gguf"}}))
    status, found = examined()
    assert (status, len(found)) == (1, 3)
    assert found[0] == "warn model cut: cut.gguf is 4 bytes long, shorter than a GGUF header"
    assert found[1].startswith("fail model gone: no such file: looked for gone.gguf in ")
    assert found[2].startswith("fail model seeing: ") and "/none/mmproj.gguf" in found[2]


def test_a_folder_that_does_not_exist_is_a_problem(machine: Path, monkeypatch: pytest.MonkeyPatch):
    setting(monkeypatch, "CATALOG__MODELS_DIRS", json.dumps([str(machine / "models"), "/none/models"]))
    assert examined() == (1, ["fail models: /none/models: No such file or directory"])


def test_a_folder_of_another_program_that_cannot_be_read_is_a_warning(monkeypatch: pytest.MonkeyPatch):
    setting(monkeypatch, "CATALOG__OLLAMA", "/none/ollama")
    assert examined(fixed=False) == (0, ["warn models: /none/ollama cannot be read: No such file or directory"])


def test_a_port_that_another_program_has_names_the_program(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("app.commands.doctor.SERVICE_SECONDS", 0.3)  # this program accepts, and says nothing
    with socket.create_server(("127.0.0.1", 0)) as other:
        setting(monkeypatch, "SERVER__PORT", str(other.getsockname()[1]))
        status, found = examined()
    me = f"{psutil.Process().name()} (pid {os.getpid()})"
    assert status == 1 and found[0].endswith(f"Address already in use; {me} has it")


def test_a_degraded_service_says_why(monkeypatch: pytest.MonkeyPatch):
    health = {"status": "ok", "degraded": True, "reasons": ["GPU 1 is set aside"], "version": version()}
    with answering(health) as port:
        setting(monkeypatch, "SERVER__PORT", str(port))
        status, found = examined(fixed=False)
    assert (status, found) == (1, ["fail service: degraded: GPU 1 is set aside"])


def test_the_service_that_was_asked_may_use_the_state_directory(machine: Path, monkeypatch: pytest.MonkeyPatch):
    """It was started with --port."""
    folder = machine / "state" / "llama-smart-proxy"
    folder.mkdir(parents=True)
    health = {"status": "ok", "degraded": False, "reasons": [], "version": version()}
    with answering(health) as port, open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        print(os.getpid(), file=lock, flush=True)
        setting(monkeypatch, "URL", f"http://localhost:{port}/v1")
        assert examined() == (0, [])


@contextlib.contextmanager
def answering(body: object) -> Iterator[int]:
    """A service that answers GET /health with this body; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()
            self.wfile.write(json.dumps(body if self.path == "/health" else {}).encode())

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_a_state_directory_below_a_file_cannot_be_written(machine: Path, monkeypatch: pytest.MonkeyPatch):
    (machine / "file").touch()
    monkeypatch.setenv("STATE_DIRECTORY", str(machine / "file" / "state"))
    assert examined() == (1, [f"fail directories: the state directory {machine}/file/state cannot be written"])


@needs_compiler
def test_gpus_that_the_engine_uses_are_good(hardware: StandIn):
    hardware.show(Card(), Card("GPU-bbbb", bus="00000000:02:00.0"))
    status, found = examined()
    assert (status, found) == (1, [])  # 1 for CUDA's library, which the fake driver lacks


@needs_compiler
def test_a_lost_gpu_beside_one_that_works_is_a_problem(hardware: StandIn):
    hardware.show(Card(), Card("GPU-bbbb", bus="00000000:02:00.0", flags=("lost",)))
    status, found = examined()
    assert status == 1 and [line.split(":")[0] for line in found] == ["fail GPU 1"]
    assert "fell off the bus" in found[0]


@needs_compiler
def test_a_driver_without_its_module_is_a_problem_where_gpus_were_seen(machine: Path, hardware: StandIn):
    (machine / "state/llama-smart-proxy").mkdir(parents=True)
    (machine / "state/llama-smart-proxy/gpus.json").write_text('{"GPU-aaaa": "RTX 4090"}')
    status, found = examined()  # the fake library without its file: the driver is not loaded
    assert status == 1 and found[0].startswith("fail GPUs: the NVIDIA driver is not loaded; seen before: RTX 4090")


@needs_compiler
def test_a_gpu_that_was_seen_before_is_missed_beside_others(machine: Path, hardware: StandIn):
    (machine / "state/llama-smart-proxy").mkdir(parents=True)
    (machine / "state/llama-smart-proxy/gpus.json").write_text('{"GPU-bbbb": "RTX 3090"}')
    hardware.show(Card())
    assert examined()[1] == ["warn GPUs: RTX 3090 (GPU-bbbb) was seen before and is not listed now"]


@needs_compiler
def test_gpus_that_are_disabled_are_not_read(hardware: StandIn, monkeypatch: pytest.MonkeyPatch):
    hardware.show(Card(flags=("lost",)))
    setting(monkeypatch, "GPU__ENABLED", "false")
    assert examined() == (0, [])


@needs_compiler
def test_a_library_and_a_module_of_different_versions_are_a_problem(hardware: StandIn):
    hardware.show(Card(), faults=(f"error all {pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH}",))
    status, found = examined()
    assert status == 1 and "have different versions" in found[0]


@needs_compiler
def test_an_engine_whose_cuda_fails_is_a_problem_of_each_gpu(machine: Path, hardware: StandIn):
    hardware.show(Card())
    install_fake(machine / "bin", FAKE_CARDS="", FAKE_CUDA_INIT="no CUDA-capable device is detected")
    status, found = examined()
    assert status == 1 and found[0].startswith("fail GPU 0: NVIDIA GeForce RTX 4090, GPU-aaaa: the engine cannot use")


@needs_compiler
def test_an_engine_without_cuda_is_a_problem(machine: Path, hardware: StandIn):
    hardware.show(Card())
    install_fake(machine / "bin", FAKE_DEVICES="")
    status, found = examined()
    assert status == 1 and "has no CUDA: its --list-devices lists no GPU" in found[0]


TWO = (Card(), Card("GPU-bbbb", bus="00000000:02:00.0"))
VULKAN = "NVIDIA GeForce RTX 4090:24564"


@needs_compiler
@pytest.mark.parametrize(
    ("cards", "engine", "seen"),
    [
        ([Card(flags=("memory_fails",))], {}, "fail GPU 0: NVIDIA GeForce RTX 4090, GPU-aaaa: memory cannot be read"),
        ([Card(flags=("no_memory",))], {}, "fail GPU 0: NVIDIA GeForce RTX 4090, GPU-aaaa: "),
        ([Card(flags=("no_utilization", "no_power", "no_temperature", "no_processes"))], {}, ""),
        ([Card(flags=("display",))], {}, "warn GPU 0: drives a display: 512 MiB is reserved"),
        ([Card(name="NVIDIA GB10", capability="12.1", flags=("no_memory",))], {}, ""),
        (TWO, {"FAKE_CARDS": "GPU-aaaa"}, "fail GPU 1: NVIDIA GeForce RTX 4090, GPU-bbbb: the engine cannot use it"),
        (TWO[:1], {"FAKE_VULKAN": VULKAN}, ""),
        (TWO, {"FAKE_VULKAN": f"{VULKAN},{VULKAN}"}, "warn GPU 0: other GPUs have its name"),
        (TWO, {"FAKE_VULKAN": VULKAN}, "fail GPU 1: NVIDIA GeForce RTX 4090, GPU-bbbb: none of the engine's Vulkan"),
        (TWO, {"FAKE_STATUS": "0"}, "warn engine: it has no --list-devices"),
    ],
)
def test_what_can_be_wrong_with_a_gpu_is_found(
    machine: Path, hardware: StandIn, cards: list[Card], engine: dict[str, str], seen: str
):
    hardware.show(*cards)
    if engine:
        install_fake(machine / "bin", **engine)
    _, found = examined()
    assert found[0].startswith(seen) if seen else found == []


@needs_compiler
def test_a_variable_that_names_no_gpu_is_a_problem(hardware: StandIn, monkeypatch: pytest.MonkeyPatch):
    hardware.show(Card())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-zz")
    assert examined()[1] == ["fail GPUs: CUDA_VISIBLE_DEVICES=GPU-zz matches none of the 1 GPUs present"]


@needs_compiler
def test_a_driver_that_hangs_is_a_problem_and_not_waited_for(hardware: StandIn):
    """As a program of its own, which ends although a process of it does not."""
    hardware.show(Card(), faults=("delay nvmlDeviceGetCount_v2 600000",))
    code = "import workers.diagnose_gpus as d; d.GPU_SECONDS = 0.5; from app.commands.cli import main; main()"
    command = [sys.executable, "-c", code, "doctor"]
    env = os.environ | hardware.environment
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert "FAIL  GPUs: NVML does not respond: no answer within 0.5 s\n      -> sudo dmesg" in done.stdout
    assert done.returncode == 1


def test_models_own_engines_are_examined(machine: Path):
    models = "models:\n  a: {engine: /none/fork}\n  b: {engine: /none/fork}\n  c: {engine: embedded}\n"
    (machine / "config.yaml").write_text(models)
    status, found = examined("--config", str(machine / "config.yaml"))
    assert (status, found[0]) == (1, "fail engine of a, b: engine '/none/fork' does not exist")
