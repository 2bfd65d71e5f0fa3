"""Faults that a real engine does not show on demand, from a fake llama-server of an old build."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import psutil
import pytest
import requests

from tests.helpers.builders import a_gguf
from tests.helpers.fake_llama_server import install_fake
from tests.helpers.fixed_ram import RAM_BYTES
from tests.helpers.service import Service, has_exited, serving, wait_for


@contextlib.contextmanager
def faulty(
    folder: Path, settings: dict[str, str] | None = None, is_wrapped: bool = False, **fake: object
) -> Iterator[Service]:
    """The service with one model `m` and a fake engine with these faults, which may be run by a script without exec."""
    (folder / "models").mkdir(exist_ok=True)
    if not (folder / "models" / "m.gguf").exists():
        a_gguf(folder / "models" / "m.gguf")
    journal = folder / "journal"
    journal.touch()
    binary = install_fake(folder / "bin", FAKE_JOURNAL=str(journal), **fake)
    if is_wrapped:
        binary = a_wrapper(folder / "wrapper", binary)
    models = ("--models-dir", str(folder / "models"))
    with serving(folder, *models, **{"ENGINE__BINARY": str(binary), **(settings or {})}) as service:
        service.get("/health")
        yield service


def a_wrapper(path: Path, binary: Path) -> Path:
    """A script that runs the binary as its child."""
    path.write_text(f'#!/bin/sh\n{binary} "$@"\nexit $?\n')
    path.chmod(0o755)
    return path


def detached(path: Path, binary: Path, how: str) -> Path:
    """A script that runs the binary outside its own process group."""
    path.write_text(f"#!/bin/sh\n{how.format(binary)}\n")
    path.chmod(0o755)
    return path


def journal(service: Service, event: str) -> list[tuple[float, str]]:
    """(time, detail) of each such event in the engine."""
    rows = [line.split(" ", 2) for line in (service.folder / "journal").read_text().splitlines()]
    return [(float(at), " ".join(rest)) for at, name, *rest in rows if name == event]


def error_of(answer) -> dict[str, object]:
    error: dict[str, object] = answer.json()["error"]
    return error


def test_an_old_build_without_the_newer_options_works(tmp_path: Path):
    with faulty(tmp_path) as service:
        answer = service.chat("m")
        assert answer.status_code == 200
        assert answer.json()["model"] == "m"
        assert service.get("/health").json()["engine"] == {"kind": "binary", "version": "3091 (fake)"}
        assert len(journal(service, "start")) == 2, "it could not take --port 0 and was started again with a port"


def test_a_build_that_chooses_its_port_is_started_once(tmp_path: Path):
    with faulty(tmp_path, FAKE_PORT_ZERO=1) as service:
        assert service.chat("m").status_code == 200
        assert len(journal(service, "start")) == 1


FOREIGN = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"status": "ok"}'
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        print("used", flush=True); self.do_GET()
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


def test_a_port_taken_by_a_foreign_server_without_keys_is_never_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Before the child binds its port, a server that answers /health with 200 takes it."""
    with subprocess.Popen([sys.executable, "-c", FOREIGN], stdout=subprocess.PIPE, text=True) as foreign:
        assert foreign.stdout is not None
        port = foreign.stdout.readline().strip()
        # Run inside the service: hand out the foreign port once, then free ones.
        folder = tmp_path / "patch"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(
            "import workers.server.llama_server as module\n"
            "real, given = module.free_port, []\n"
            f"module.free_port = lambda: real() if given else given.append(1) or {port}\n"
        )
        monkeypatch.setenv("PYTHONPATH", f"{folder}:{Path(__file__).resolve().parents[2]}")
        try:
            with faulty(tmp_path) as service:
                answer = service.chat("m")
                assert answer.status_code == 200
                assert answer.json()["id"] == "fake", "answered by our child"
                assert len(journal(service, "start")) == 3, "--port 0, the stolen port, a free one"
                assert service.servers()[0]["port"] != int(port)
        finally:
            foreign.kill()
            assert "used" not in foreign.communicate()[0]


def test_an_engine_that_answers_without_the_key_is_not_used(tmp_path: Path):
    with faulty(tmp_path, FAKE_IGNORE_KEY=1) as service:
        refused = service.chat("m")
        assert (refused.status_code, error_of(refused)["code"]) == (503, "model_load_failed")
        assert "answers requests without the key" in str(error_of(refused)["message"])
        assert not journal(service, "request")


def test_a_stalled_load_is_stopped_and_reported(tmp_path: Path):
    with faulty(tmp_path, {"SCHEDULING__STALL_TIMEOUT_SECONDS": "1"}, FAKE_LOAD="hang") as service:
        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(lambda _: service.chat("m"), range(3)))
        for answer in answers:
            assert (answer.status_code, error_of(answer)["code"]) == (504, "load_timeout")
            assert "no progress for 1 s" in str(error_of(answer)["message"])
        wait_for(lambda: not service.engines(), 5)


def test_a_slow_load_that_progresses_is_not_stopped(tmp_path: Path):
    settings = {"SCHEDULING__STALL_TIMEOUT_SECONDS": "1.2"}
    with faulty(tmp_path, settings, FAKE_LOAD_SECONDS=3) as service:
        assert service.chat("m").status_code == 200


def test_a_load_that_only_reads_is_not_stopped_and_shows_how_far_it_is(tmp_path: Path):
    """llama.cpp logs nothing while the kernel reads the file for it: large models on slow disks never loaded."""
    settings = {"SCHEDULING__STALL_TIMEOUT_SECONDS": "1.2"}
    a_gguf(tmp_path / "models" / "m.gguf", size_bytes=64 * 1024**2)
    with (
        faulty(tmp_path, settings, FAKE_LOAD_SECONDS=4, FAKE_READS=1) as service,
        ThreadPoolExecutor(1) as pool,
    ):
        answer = pool.submit(service.chat, "m")

        def progress() -> float:
            (entry,) = service.get("/v1/models").json()["data"]
            return float(entry["status"].get("progress", {"value": 0.0})["value"])

        wait_for(lambda: 0.0 < progress() < 0.6, 10)  # of 64 MiB it has read 8 times 2, and its own libraries
        assert answer.result().status_code == 200


@pytest.mark.parametrize(
    ("load", "words"),
    [
        ("exit1", "unknown model architecture: 'fake'"),
        ("oom", "cudaMalloc failed: out of memory"),
        ("segv", "ended by SIGSEGV"),
    ],
)
def test_a_failed_load_is_answered_with_the_engines_last_lines(tmp_path: Path, load: str, words: str):
    with faulty(tmp_path, FAKE_LOAD=load, FAKE_PORT_ZERO=1) as service:
        answer = service.chat("m")
        assert (answer.status_code, error_of(answer)["code"]) == (503, "model_load_failed")
        assert words in str(error_of(answer)["message"])
        assert service.servers() == []


@pytest.mark.parametrize("stream", [True, False])
def test_a_disconnected_client_is_noticed_while_the_engine_is_silent(tmp_path: Path, stream: bool):
    """The engine computes without output; our connection to it must close within 100 ms (asserted: 2 s)."""
    with faulty(tmp_path, FAKE_FIRST_BYTE_SECONDS=60) as service:
        with service.send_raw({"model": "m", "stream": stream}):
            wait_for(lambda: journal(service, "request"), 10)
            left_at = time.monotonic()
        ((closed_at, _),) = wait_for(lambda: journal(service, "closed"), 5)
        assert closed_at - left_at < 2.0
        wait_for(lambda: service.servers()[0]["requests"] == 0, 2)
        page = service.get("/metrics").text
        assert 'requests_total{code="499",endpoint="/v1/chat/completions",model="m"} 1.0' in page


def test_an_engine_that_continues_after_a_disconnect_is_stopped(tmp_path: Path):
    """It has five seconds to stop by itself; llama-server needs less than one."""
    with faulty(tmp_path, FAKE_DEAF=1, FAKE_TOKEN_DELAY_SECONDS=30) as service:
        with service.send_raw({"model": "m"}):
            wait_for(lambda: journal(service, "request"), 10)
        (engine,) = service.engines()
        wait_for(lambda: has_exited(engine), 15)
        wait_for(lambda: "why=abandoned" in service.output, 10)  # the log may be read with a delay


def test_an_engine_that_watches_nothing_dies_with_a_killed_arbiter(tmp_path: Path):
    """No engine watches stdin while it loads either: only the parent-death signal ends it then."""
    with faulty(tmp_path, FAKE_LOAD="hang", FAKE_PORT_ZERO=1) as service, service.send_raw({"model": "m"}):
        wait_for(lambda: journal(service, "bind"), 10)
        family = service.family()
        assert len(family) == 3, "master, worker, engine"
        service.master.kill()
        wait_for(lambda: all(has_exited(process) for process in family), 2)


def test_engines_that_outlive_a_killed_service_are_killed_at_its_next_start(tmp_path: Path):
    """A script runs them without exec, so the kernel's signal ends the script only; one of them is still loading. A
    llama-server that somebody else runs is left alone."""
    a_gguf(tmp_path / "models" / "half.gguf")
    settings = {"MODELS": json.dumps({"half": {"env": {"FAKE_LOAD": "hang"}}})}
    with faulty(tmp_path, settings, is_wrapped=True, FAKE_PORT_ZERO=1) as service:
        assert service.chat("m").status_code == 200
        assert service.post("/models/load", {"model": "half"}).status_code == 200
        wait_for(lambda: len(journal(service, "bind")) == 2, 20)
        engines = [engine for script in service.engines() for engine in script.children()]
        own = [str(tmp_path / "bin" / "llama-server"), "--port", "0", "--model", str(tmp_path / "models" / "m.gguf")]
        with subprocess.Popen(own, stderr=subprocess.DEVNULL) as foreign:
            worker = service.worker
            service.master.kill()
            wait_for(lambda: has_exited(worker), 10)
            assert [has_exited(engine) for engine in engines] == [False, False]
            with faulty(tmp_path, settings, is_wrapped=True, FAKE_PORT_ZERO=1) as again:
                wait_for(lambda: all(map(has_exited, engines)), 10)
                assert "killed orphans" in again.output
                assert foreign.poll() is None
                assert again.stop() == 0
            assert not list((tmp_path / "state").rglob("owner-*.json"))
            foreign.kill()


def test_an_engine_in_a_session_of_its_own_ends_with_its_server(tmp_path: Path):
    """Stopping the script left the engine behind, and the memory that it held. After SIGKILL of the service, too."""
    binary = install_fake(tmp_path / "bin", FAKE_PORT_ZERO=1, FAKE_JOURNAL=str(tmp_path / "journal"))
    script = detached(tmp_path / "wrapper", binary, 'setsid -w {} "$@"; exit $?')
    settings = {"ENGINE__BINARY": str(script)}
    with faulty(tmp_path, settings, FAKE_PORT_ZERO=1, FAKE_IGNORE_TERM=1) as service:
        assert service.chat("m").status_code == 200
        (engine,) = engines_of(tmp_path)
        assert engine.pid == os.getsid(engine.pid)
        assert service.post("/models/unload", {"model": "m"}).status_code == 200
        wait_for(lambda: has_exited(engine), 20)
        assert service.chat("m").status_code == 200
        (engine,) = engines_of(tmp_path)
        worker = service.worker
        service.master.kill()
        wait_for(lambda: has_exited(worker), 10)
        with faulty(tmp_path, settings, FAKE_PORT_ZERO=1):
            wait_for(lambda: has_exited(engine), 10)


def test_a_script_that_ends_before_its_engine_is_a_failed_load_and_leaves_nothing_behind(tmp_path: Path):
    binary = install_fake(tmp_path / "bin", FAKE_PORT_ZERO=1)
    how = 'case "$*" in *--port*) setsid {0} "$@" & sleep 1;; *) {0} "$@";; esac'
    script = detached(tmp_path / "wrapper", binary, how)
    with faulty(tmp_path, {"ENGINE__BINARY": str(script)}, FAKE_LOAD_SECONDS=30) as service:
        answer = service.chat("m")
        assert (answer.status_code, error_of(answer)["code"]) == (503, "model_load_failed")
        assert "a script must exec llama-server, or wait" in str(error_of(answer)["message"])
        assert engines_of(tmp_path) == []


def engines_of(folder: Path) -> list[psutil.Process]:
    """The processes that run the folder's fake engine and serve a model."""
    name = str(folder / "bin" / "llama-server")
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if line[1:3] == ["-IS", name] and "--port" in line:  # python -IS, as its first line says
                found.append(process)
    return found


def test_the_head_of_a_stream_does_not_wait_for_the_first_token(tmp_path: Path):
    with (
        faulty(tmp_path, FAKE_TOKEN_DELAY_SECONDS=30) as service,
        service.send_raw({"model": "m", "stream": True}) as connection,
    ):
        assert connection.recv(12) == b"HTTP/1.1 200"  # within the socket's 10 s


def test_disconnected_clients_leave_the_queue(tmp_path: Path):
    with faulty(tmp_path, FAKE_LOAD_SECONDS=3) as service:
        waiting = [service.send_raw({"model": "m"}) for _ in range(20)]
        wait_for(lambda: service.get("/health").json()["waiting"] == 20, 5)
        for connection in waiting:
            connection.close()
        wait_for(lambda: service.get("/health").json()["waiting"] == 0, 2)
        wait_for(lambda: [s["state"] for s in service.servers()] == ["ready"], 10)
        assert len(journal(service, "request")) == 0


def test_a_crash_during_a_stream_reaches_the_client_as_an_error(tmp_path: Path):
    """Without the error the stream would just end, which client libraries take for success."""
    with faulty(tmp_path, FAKE_DIE_AFTER_TOKENS=3) as service:
        client = openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0)
        with client, pytest.raises(openai.APIError, match="ended during the request"):
            list(client.chat.completions.create(model="m", messages=[], stream=True))
        body = {"model": "m", "messages": [], "stream": True}
        answer = requests.post(f"{service.url}/v1/messages", json=body, timeout=60)
        error = json.loads(answer.text.partition("\n\nevent: error\ndata: ")[2])
        assert (error["type"], error["error"]["type"]) == ("error", "api_error")


def test_a_crash_before_the_first_byte_is_502(tmp_path: Path):
    with faulty(tmp_path, FAKE_DIE_AFTER_TOKENS=3) as service:
        answer = service.chat("m")
        assert (answer.status_code, error_of(answer)["code"]) == (502, "upstream_crashed")
        assert answer.headers["x-should-retry"] == "false"


def test_an_engine_that_takes_far_more_memory_than_booked_is_killed_and_started_again(tmp_path: Path):
    """A JSON schema took a llama-server that was booked at 93 MiB to 23 GB, and nothing noticed. Its binary is a script
    that runs it without exec: the memory is that of a grandchild."""
    settings = {"SCHEDULING__MAX_EXCESS_MEMORY": "200MiB"}
    tokens = {"FAKE_STREAM_TOKENS": 3000, "FAKE_GROW_MB": 500}
    with faulty(tmp_path, settings, is_wrapped=True, **tokens) as service, ThreadPoolExecutor(2) as pool:
        stream = service.chat("m", stream=True)
        (shell,) = service.engines()
        priorities = [Path(f"/proc/{process.pid}/oom_score_adj").read_text() for process in family_of(shell)]
        assert priorities == ["500\n", "500\n"], "the kernel's first victims"
        assert Path(f"/proc/{service.worker.pid}/oom_score_adj").read_text() != "500\n"
        refused = pool.submit(service.post, "/v1/completions", {"model": "m", "prompt": "grow"}).result()
        assert (refused.status_code, error_of(refused)["code"]) == (502, "upstream_crashed")
        assert refused.headers["x-should-retry"] == "false"
        message = str(error_of(refused)["message"])
        assert "scheduling.max_excess_memory is 200 MiB; the next request restarts it" in message
        assert "MiB of RAM" in message
        last = [line.decode() for line in stream.iter_lines() if line][-1]
        assert json.loads(last.removeprefix("data: "))["error"]["message"] == message
        wait_for(lambda: has_exited(shell) and not service.servers(), 10)
        assert service.chat("m", stream=True).status_code == 200, "loaded again"
        assert 'server_stops_total{model="m",reason="memory_exceeded"} 1.0' in service.get("/metrics").text


def family_of(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def test_a_truncated_answer_is_an_error_and_no_crash(tmp_path: Path):
    """Small bodies are sent once complete: nothing has been sent when this one ends."""
    with faulty(tmp_path, FAKE_TRUNCATE=1) as service:
        answer = service.chat("m")
        assert (answer.status_code, error_of(answer)["code"]) == (502, "bad_upstream")
        lines = [line.decode() for line in service.chat("m", stream=True).iter_lines() if line]
        assert "bad_upstream" in lines[-1]
        assert "data: [DONE]" not in lines
        wait_for(lambda: service.servers()[0]["requests"] == 0, 5)
        assert len(service.engines()) == 1 and "exited server=" not in service.output


@pytest.mark.parametrize("fault", ["FAKE_GARBAGE", "FAKE_BAD_HEADER_NAME"])
def test_an_answer_that_is_not_http_is_an_error(tmp_path: Path, fault: str):
    with faulty(tmp_path, **{fault: 1}) as service:
        answer = service.chat("m")
        assert (answer.status_code, error_of(answer)["code"]) == (502, "bad_upstream")


@pytest.mark.parametrize("status", [400, 429, 500, 503])
def test_errors_of_the_engine_pass_through(tmp_path: Path, status: int):
    with faulty(tmp_path, FAKE_STATUS=status) as service:
        answer = service.chat("m")
        assert answer.status_code == status
        assert error_of(answer)["message"] == "told to fail"
        assert "x-llama-smart-proxy-error" not in answer.headers
        assert answer.headers.get("x-should-retry") == ("false" if status == 500 else None)


def test_an_answer_that_does_not_begin_in_time_is_an_error(tmp_path: Path):
    with faulty(tmp_path, {"UPSTREAM__FIRST_BYTE_SECONDS": "0.5"}, FAKE_FIRST_BYTE_SECONDS=30) as service:
        answer = service.chat("m")
        assert (answer.status_code, error_of(answer)["code"]) == (504, "upstream_timeout")
        assert service.servers()[0]["state"] == "ready", "slow is not broken"


def test_a_stalled_answer_is_an_error(tmp_path: Path):
    with faulty(tmp_path, {"UPSTREAM__STALL_SECONDS": "0.5"}, FAKE_TOKEN_DELAY_SECONDS=30) as service:
        lines = [line.decode() for line in service.chat("m", stream=True).iter_lines() if line]
        assert "upstream_timeout" in lines[-1]


def test_an_engine_that_ignores_sigterm_is_killed(tmp_path: Path):
    with faulty(tmp_path, {"SERVER__STOP_SECONDS": "0.5"}, FAKE_IGNORE_TERM=1) as service:
        service.chat("m")
        family = service.family()
        assert service.stop() == 0
        assert all(has_exited(process) for process in family)


def test_an_engine_in_router_mode_exits_at_once(tmp_path: Path):
    """A llama-server with LLAMA_SERVER_ROUTER_PORT closes HTTP on SIGTERM, then waits for a command on stdin: each
    stop took `stop_seconds` and a SIGKILL."""
    with faulty(tmp_path, {"SERVER__STOP_SECONDS": "300"}, FAKE_WAITS_FOR_ORDER=1) as service:
        service.chat("m")
        assert service.stop() == 0
        assert "exit status 0" in service.output


@pytest.mark.parametrize("how", ["stop", "kill the engine"])
def test_a_grandchild_that_holds_the_pipes_is_killed_with_its_parent(tmp_path: Path, how: str):
    with faulty(tmp_path, FAKE_FORK_GRANDCHILD=1, FAKE_PORT_ZERO=1) as service:
        service.chat("m")
        ((_, pid),) = journal(service, "grandchild")
        grandchild = psutil.Process(int(pid))
        if how == "stop":
            assert service.stop() == 0
        else:
            (engine,) = (p for p in service.engines() if p.pid != grandchild.pid)
            engine.send_signal(signal.SIGKILL)
            wait_for(lambda: not service.servers(), 5)
        wait_for(lambda: has_exited(grandchild), 5)


def test_a_flood_of_log_lines_delays_no_request_and_takes_no_memory(tmp_path: Path):
    with faulty(tmp_path, FAKE_STDERR_MB=50) as service:
        before = service.worker.memory_info().rss
        assert service.chat("m").status_code == 200
        assert service.worker.memory_info().rss - before < 30 * 2**20


def test_an_engine_that_never_listens_is_stopped(tmp_path: Path):
    with faulty(tmp_path, {"SCHEDULING__STALL_TIMEOUT_SECONDS": "1"}, FAKE_NO_BIND=1) as service:
        assert error_of(service.chat("m"))["code"] == "load_timeout"


def test_a_full_queue_answers_with_retry_after(tmp_path: Path):
    settings = {"SCHEDULING__MAX_WAITING_PER_MODEL": "2"}
    with faulty(tmp_path, settings, FAKE_LOAD_SECONDS=3) as service:
        waiting = [service.send_raw({"model": "m"}) for _ in range(2)]
        wait_for(lambda: service.get("/health").json()["waiting"] == 2, 5)
        refused = service.chat("m")
        assert (refused.status_code, error_of(refused)["code"]) == (429, "queue_full")
        assert refused.headers["Retry-After"] == "1", "by its size the load takes no longer"
        for connection in waiting:
            connection.close()


def test_a_wait_times_out(tmp_path: Path):
    with faulty(tmp_path, {"SCHEDULING__MAX_WAIT_SECONDS": "0.5"}, FAKE_LOAD_SECONDS=5) as service:
        refused = service.chat("m")
        assert (refused.status_code, error_of(refused)["code"]) == (503, "wait_timeout")


def test_an_upgraded_engine_is_asked_anew_and_loaded_models_do_not_notice(tmp_path: Path):
    """Every load failed until the service was restarted: the new build lacks an option that the old one had."""
    a_gguf(tmp_path / "models" / "n.gguf")
    with faulty(tmp_path, FAKE_STREAM_TOKENS=200) as service:
        with service.chat("m", stream=True) as answer:
            lines = answer.iter_lines()
            next(lines)
            upgrade(tmp_path / "bin" / "llama-server", {"3091 (fake)": "3092 (newer)", '"--metrics",': ""})
            assert service.chat("n").status_code == 200
            assert "data: [DONE]" in [line.decode() for line in lines]
        assert service.get("/health").json()["engine"]["version"] == "3092 (newer)"
        assert service.chat("m").status_code == 200, "its server runs on"
        assert "engine replaced kind=binary version=3092 (newer)" in service.output


def upgrade(binary: Path, changes: dict[str, str]) -> None:
    """Replace the fake engine by another build: rename a changed copy onto it, as package managers do."""
    text = binary.read_text()
    for before, after in changes.items():
        text = text.replace(before, after)
    without_metrics = "\n".join(line for line in text.split("\n") if not line.startswith("         --metrics"))
    new = binary.with_name("new")
    new.write_text(without_metrics)
    new.chmod(0o755)
    new.replace(binary)


def test_a_missing_configured_engine_is_reported_and_the_service_stays_up(tmp_path: Path):
    with serving(tmp_path, ENGINE__BINARY="/nowhere/llama-server") as service:
        health = service.get("/health").json()
        assert (health["status"], health["degraded"]) == ("ok", True)
        assert "/nowhere/llama-server" in health["reasons"][0]
        assert service.get("/readyz").status_code == 503
        refused = service.chat()
        assert (refused.status_code, error_of(refused)["code"]) == (503, "no_engine")


def test_two_models_that_do_not_fit_together_alternate(tmp_path: Path):
    """By the booked sizes one fits: every request is answered, and never do two run at once."""
    with faulty(tmp_path) as service:
        for name in ("left", "right"):
            a_gguf(tmp_path / "models" / f"{name}.gguf", RAM_BYTES // 2)  # the fake engine does not read it
        service.process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(service.get("/v1/models").json()["data"]) == 3, 5)
        with ThreadPoolExecutor(2) as pool:
            chats = [pool.submit(service.chat, name) for name in ("left", "right") * 3]
            seen = []
            while not all(chat.done() for chat in chats):
                seen.append([s["model_id"] for s in service.servers()])
                time.sleep(0.02)
        assert [chat.result().status_code for chat in chats] == [200] * 6
        assert max(map(len, seen)) == 1
        assert {tuple(names) for names in seen} >= {("left",), ("right",)}


def test_a_model_larger_than_the_machine_is_rejected_with_the_sizes(tmp_path: Path):
    with faulty(tmp_path) as service:
        a_gguf(tmp_path / "models" / "huge.gguf", RAM_BYTES)
        service.process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(service.get("/v1/models").json()["data"]) == 2, 5)
        refused = service.chat("huge")
        assert (refused.status_code, error_of(refused)["code"]) == (422, "model_does_not_fit")
        assert 0 < error_of(refused)["needed_bytes"] - RAM_BYTES < 512 * 1024**2
        assert refused.headers["x-should-retry"] == "false"
        assert json.dumps(error_of(refused)["devices"])
        assert not journal(service, "start")


def test_headers_that_cannot_be_forwarded_are_dropped_and_the_slot_is_released(tmp_path: Path):
    """gunicorn rejects control characters in headers: the answer used to fail, and its slot was never released."""
    with faulty(tmp_path, {"DEFAULTS__PARALLEL": "2"}, FAKE_BAD_HEADER=1) as service:
        for _ in range(4):
            answer = service.chat("m")
            assert answer.status_code == 200
            assert not {"X-Control", "Set-Cookie", "X-Llama-Smart-Proxy-Error"} & set(answer.headers)
        wait_for(lambda: service.servers()[0]["requests"] == 0, 5)  # released once the body is closed


def test_a_partial_event_is_terminated_before_the_error(tmp_path: Path):
    with faulty(tmp_path, FAKE_CUT_EVENT=1) as service:
        lines = [line.decode() for line in service.chat("m", stream=True).iter_lines() if line]
        assert lines[-2] == 'data: {"choices": [{"delt'
        assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "bad_upstream"


def test_an_engine_that_continues_after_our_timeout_is_stopped(tmp_path: Path):
    settings = {"UPSTREAM__FIRST_BYTE_SECONDS": "0.5"}
    with faulty(tmp_path, settings, FAKE_DEAF=1, FAKE_TOKEN_DELAY_SECONDS=30) as service:
        assert service.chat("m").status_code == 504
        (engine,) = service.engines()
        wait_for(lambda: has_exited(engine), 15)


def test_a_slow_answer_about_slots_is_retried(tmp_path: Path):
    """The slot is not reused meanwhile: the engine may still be working on it."""
    with faulty(tmp_path, {"DEFAULTS__PARALLEL": "1"}, FAKE_TOKEN_DELAY_SECONDS=30, FAKE_SLOTS_SECONDS=0.7) as service:
        with service.send_raw({"model": "m"}):
            wait_for(lambda: journal(service, "request"), 10)
        wait_for(lambda: service.servers()[0]["requests"] == 0, 2)
        assert len(service.output) and service.servers()[0]["state"] == "ready"
        with service.send_raw({"model": "m"}):
            wait_for(lambda: service.get("/health").json()["waiting"] == 1, 5)


def test_a_client_that_does_not_read_loses_its_slot(tmp_path: Path):
    settings = {"UPSTREAM__STALL_SECONDS": "1", "DEFAULTS__PARALLEL": "1"}
    tokens = {"FAKE_STREAM_TOKENS": 10**6, "FAKE_TOKEN_DELAY_SECONDS": 0}
    with faulty(tmp_path, settings, **tokens) as service, service.send_raw({"model": "m", "stream": True}):
        wait_for(lambda: service.servers() and service.servers()[0]["requests"] == 1, 10)
        wait_for(lambda: service.servers()[0]["requests"] == 0, 20)
        wait_for(lambda: "read nothing for 1 s" in service.output, 5)


def test_running_out_of_file_descriptors_is_reported_and_survived(tmp_path: Path):
    """It used to end the scheduler's thread, and every later request waited forever."""
    with faulty(tmp_path) as service:
        connection = requests.Session()
        assert connection.get(service.url + "/livez", timeout=5).status_code == 200
        worker = service.worker
        limits = worker.rlimit(psutil.RLIMIT_NOFILE)
        worker.rlimit(psutil.RLIMIT_NOFILE, (worker.num_fds(), limits[1]))
        body = {"model": "m", "messages": []}
        refused = connection.post(service.url + "/v1/chat/completions", json=body, timeout=10)
        assert (refused.status_code, error_of(refused)["code"]) == (503, "spawn_failed")
        assert refused.headers["Retry-After"]
        worker.rlimit(psutil.RLIMIT_NOFILE, limits)
        assert connection.post(service.url + "/v1/chat/completions", json=body, timeout=20).status_code == 200


def test_an_unusable_state_directory_is_only_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Removing a PID record failed, so the exit of a server was never posted and its model was stuck."""
    monkeypatch.setenv("STATE_DIRECTORY", "/dev/null/nowhere")
    with faulty(tmp_path, {"SCHEDULING__TTL_SECONDS": "0.3"}) as service:
        assert service.chat("m").status_code == 200
        wait_for(lambda: not service.servers(), 10)
        assert service.chat("m").status_code == 200
        assert "not recorded" in service.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_engine_being_probed_does_not_outlive_the_service(tmp_path: Path, number: signal.Signals):
    binary = tmp_path / "llama-server"
    binary.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    binary.chmod(0o755)
    with serving(tmp_path, ENGINE__BINARY=str(binary)) as service:
        family = wait_for(lambda: len(service.family()) == 3 and service.family(), 10)
        service.process.send_signal(number)
        wait_for(lambda: all(has_exited(process) for process in family), 5)


def test_a_load_that_fails_repeatedly_is_not_retried_by_every_request(tmp_path: Path):
    with faulty(tmp_path, FAKE_LOAD="exit1", FAKE_PORT_ZERO=1) as service:
        answers = [service.chat("m") for _ in range(4)]
        assert {(answer.status_code, error_of(answer)["code"]) for answer in answers} == {(503, "model_load_failed")}
        assert [answer.headers.get("x-should-retry") for answer in answers] == ["false", "false", None, None]
        assert {answer.headers["Retry-After"] for answer in answers[2:]} <= {"1", "2"}
        assert "failed 2 times in a row" in answers[3].text and "unknown model architecture" in answers[3].text
        assert len(journal(service, "start")) == 2
        order = requests.post(f"{service.url}/models/load", json={"model": "m"}, timeout=20)
        assert order.status_code == 200, "it is starting"
        wait_for(lambda: len(journal(service, "start")) == 3, 10)
