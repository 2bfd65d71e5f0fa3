"""Start, drain and death: whatever is killed, no process is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import requests

from tests.helpers.builders import a_gguf
from tests.helpers.service import ENDLESS, Service, has_exited, serving, wait_for


def stream_of(service: Service, **fields: object) -> requests.Response:
    """A stream past its first event; the head alone may arrive while the model is still loading."""
    answer = service.chat(stream=True, **fields)
    assert answer.status_code == 200
    wait_for(lambda: [server["state"] for server in service.servers()] == ["ready"], 20)
    return answer


def events(answer: requests.Response) -> list[str]:
    return [line.decode() for line in answer.iter_lines() if line]


def test_the_service_starts_from_any_working_directory(tmp_path: Path):
    """The working directory is another one that also contains a folder app/."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").write_text("raise SystemExit('the wrong app')")
    command = [str(Path(sys.executable).with_name("llama-smart-proxy")), "serve", "--port", "0"]
    mine = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_SMART_PROXY_")}
    env = {**mine, "XDG_CACHE_HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "curl" in line or "wrong" in line:
                break
        process.terminate()
        process.communicate(timeout=20)
    assert "is ready" in "".join(lines)
    assert process.returncode == 0


def test_the_start_prints_the_address_and_a_request_to_try(tmp_path: Path):
    with serving(tmp_path) as service:
        output = wait_for(lambda: "curl" in service.output and service.output, 20)
        assert f"{service.url}/v1/chat/completions" in output
        assert "answers are noise" in output
        command = next(line.strip() for line in output.splitlines() if line.strip().startswith("curl"))
        answer = subprocess.run(["sh", "-c", f"{command} -sS"], capture_output=True, text=True, timeout=60)
        assert '"chat.completion"' in answer.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_stop_drains_streams(tmp_path: Path, number: signal.Signals):
    with serving(tmp_path) as service:
        family = [*service.family()]
        answer = stream_of(service, max_tokens=1500, ignore_eos=True)
        family += service.engines()
        service.process.send_signal(number)
        wait_for(lambda: service.get("/readyz").status_code == 503, 5)
        refused = service.chat()
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert service.get("/health").json()["status"] == "draining"
        lines = events(answer)
        assert lines[-1] == "data: [DONE]"
        assert len(lines) > 1500
        assert service.process.wait(10) == 0
        assert all(has_exited(process) for process in family)


def test_ctrl_c_reaches_all_processes_and_counts_as_one_stop_signal(tmp_path: Path):
    with serving(tmp_path) as service:
        service.chat()
        family = service.family()
        began = time.monotonic()
        os.killpg(service.process.pid, signal.SIGINT)
        assert service.process.wait(10) == 0
        assert time.monotonic() - began < 5
        assert all(has_exited(process) for process in family)


def test_a_stream_that_exceeds_the_drain_ends_with_an_error_not_with_done(tmp_path: Path):
    with serving(tmp_path, SERVER__DRAIN_SECONDS="0.3") as service:
        answer = stream_of(service, **ENDLESS)
        service.process.send_signal(signal.SIGTERM)
        lines = events(answer)
        assert '"code": "draining"' in lines[-1]
        assert "data: [DONE]" not in lines
        assert service.process.wait(10) == 0


def test_a_second_stop_signal_skips_the_drain(tmp_path: Path):
    with serving(tmp_path, SERVER__DRAIN_SECONDS="60") as service:
        answer = stream_of(service, **ENDLESS)
        family = service.family()
        service.process.send_signal(signal.SIGTERM)
        time.sleep(1.2)  # a signal within the first second counts as the first
        assert not any(has_exited(process) for process in family)
        service.process.send_signal(signal.SIGTERM)
        service.process.wait(5)
        wait_for(lambda: all(has_exited(process) for process in family), 2)
        answer.close()


def test_sigkill_of_the_arbiter_ends_every_process(tmp_path: Path):
    with serving(tmp_path) as service, stream_of(service, **ENDLESS):
        family = service.family()
        assert len(family) >= 3, "master, worker, engine"
        service.master.kill()
        wait_for(lambda: all(has_exited(process) for process in family), 2)


def test_sigkill_of_the_worker_ends_its_engines_and_a_new_worker_serves(tmp_path: Path):
    with serving(tmp_path) as service:
        with stream_of(service, **ENDLESS):
            old = [service.worker, *service.engines()]
            service.worker.kill()
            wait_for(lambda: all(has_exited(process) for process in old), 2)
        wait_for(lambda: service.output.count("is ready") == 2, 10)
        assert service.chat().status_code == 200
        assert len(service.master.children()) == 1


def test_an_engine_can_be_stopped_during_its_load(tmp_path: Path):
    """The embedded engine holds the GIL while it loads; the signal must work without it."""
    with serving(tmp_path) as service:
        service.get("/health")
        with service.send_raw({}):
            (engine,) = wait_for(service.engines, 5)
            assert service.stop() == 0
            assert has_exited(engine)


def test_a_killed_engine_is_reaped_and_restarted(tmp_path: Path):
    with serving(tmp_path) as service:
        service.chat()
        for _ in range(5):
            (engine,) = service.engines()
            engine.kill()
            wait_for(lambda: not service.servers(), 5)
            assert service.chat().status_code == 200
        assert not [p for p in service.family() if p.status() == psutil.STATUS_ZOMBIE]


def test_an_engine_killed_during_a_stream_ends_the_stream_with_an_error(tmp_path: Path):
    with serving(tmp_path) as service:
        answer = stream_of(service, **ENDLESS)
        service.engines()[0].kill()
        lines = events(answer)
        assert '"code": "upstream_crashed"' in lines[-1]
        assert "data: [DONE]" not in lines


def test_hup_rescans_models_in_the_same_worker(tmp_path: Path):
    models = tmp_path / "models"
    models.mkdir()
    with serving(tmp_path, "--models-dir", str(models)) as service:
        assert service.get("/v1/models").json()["data"] == []
        worker = service.worker.pid
        a_gguf(models / "new.gguf")
        service.process.send_signal(signal.SIGHUP)
        wait_for(lambda: [m["id"] for m in service.get("/v1/models").json()["data"]] == ["new"], 5)
        assert service.worker.pid == worker


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU])
def test_signals_that_would_start_a_second_worker_are_rejected(tmp_path: Path, number: signal.Signals):
    with serving(tmp_path) as service:
        service.get("/health")
        family = service.family()
        service.process.send_signal(number)
        wait_for(lambda: f"refused: {number.name}" in service.output, 5)
        assert service.family() == family
        assert service.get("/readyz").status_code == 200


def test_the_key_of_an_engine_is_not_in_logs_answers_or_arguments(tmp_path: Path):
    with serving(tmp_path) as service:
        service.chat()
        (engine,) = service.engines()
        key = engine.environ()["LLAMA_API_KEY"]
        texts = service.output + "".join(service.get(path).text for path in ("/health", "/metrics", "/", "/v1/models"))
        assert key not in texts
        assert key not in " ".join(engine.cmdline())


def test_an_engine_does_not_inherit_the_environment(tmp_path: Path):
    os.environ["LLAMA_ARG_TOOLS"] = "all"
    try:
        with serving(tmp_path, "--port", "0", ENGINE__ENV='{"MINE": "1"}') as service:
            service.chat()
            environment = service.engines()[0].environ()
    finally:
        del os.environ["LLAMA_ARG_TOOLS"]
    assert environment["MINE"] == "1"
    allowed = {"PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "MINE", "LLAMA_API_KEY", "LLAMA_SERVER_ROUTER_PORT"}
    allowed |= {"LLAMA_PROXY_MARK", "GGML_NO_BACKTRACE"}
    assert {n for n in environment if not n.startswith(("CUDA_", "NVIDIA_"))} <= allowed


def test_wrong_settings_are_reported_at_once(tmp_path: Path):
    with serving(tmp_path, SERVER__PROT="1") as service:
        assert service.process.wait(20) == 2
        service.stop()
        assert "SERVER__PROT: unknown name; did you mean LLAMA_SMART_PROXY_SERVER__PORT?" in service.output


def test_a_port_in_use_is_reported_at_once(tmp_path: Path):
    with serving(tmp_path / "first") as first:
        port = first.url.rpartition(":")[2]
        with serving(tmp_path / "second", "--port", port) as second:
            assert second.process.wait(20) == 1
            second.stop()
            assert (
                second.output
                == f"cannot listen on 127.0.0.1 port {port}: Address already in use; choose another with --port"
            )
