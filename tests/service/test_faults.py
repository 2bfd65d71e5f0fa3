"""Faults that a real engine cannot be brought to show on demand, by a scripted llama-server of an old build."""

from __future__ import annotations

import contextlib
import json
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
from tests.helpers.service import Service, is_gone, serving, wait_for


@contextlib.contextmanager
def faulty(folder: Path, settings: dict[str, str] | None = None, **fake: object) -> Iterator[Service]:
    """The service with one model `m` and an engine that behaves as told."""
    (folder / "models").mkdir(exist_ok=True)
    a_gguf(folder / "models" / "m.gguf")
    journal = folder / "journal"
    journal.touch()
    binary = install_fake(folder / "bin", FAKE_JOURNAL=str(journal), **fake)
    models = ("--models-dir", str(folder / "models"))
    with serving(folder, *models, ENGINE__BINARY=str(binary), **(settings or {})) as service:
        service.get("/health")
        yield service


def journal(service: Service, event: str) -> list[tuple[float, str]]:
    """When an event happened in the engine, and its detail."""
    rows = [line.split(" ", 2) for line in (service.folder / "journal").read_text().splitlines()]
    return [(float(at), " ".join(rest)) for at, name, *rest in rows if name == event]


def error_of(answer) -> dict[str, object]:
    found: dict[str, object] = answer.json()["error"]
    return found


def test_an_old_build_without_the_newer_options_serves(tmp_path: Path):
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
    """The port we chose is taken before the child binds it, by a server that answers /health with 200."""
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


def test_a_load_that_hangs_is_ended_and_said(tmp_path: Path):
    with faulty(tmp_path, {"SCHEDULING__STALL_TIMEOUT_SECONDS": "1"}, FAKE_LOAD="hang") as service:
        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(lambda _: service.chat("m"), range(3)))
        for answer in answers:
            assert (answer.status_code, error_of(answer)["code"]) == (504, "load_timeout")
            assert "no progress for 1 s" in str(error_of(answer)["message"])
        wait_for(lambda: not service.engines(), 5)


def test_a_slow_load_that_moves_is_left_alone(tmp_path: Path):
    settings = {"SCHEDULING__STALL_TIMEOUT_SECONDS": "1.2"}
    with faulty(tmp_path, settings, FAKE_LOAD_SECONDS=3) as service:
        assert service.chat("m").status_code == 200


@pytest.mark.parametrize(
    ("load", "words"),
    [
        ("exit1", "unknown model architecture: 'fake'"),
        ("oom", "cudaMalloc failed: out of memory"),
        ("segv", "ended by SIGSEGV"),
    ],
)
def test_a_load_that_fails_is_answered_with_the_engines_last_words(tmp_path: Path, load: str, words: str):
    with faulty(tmp_path, FAKE_LOAD=load, FAKE_PORT_ZERO=1) as service:
        answer = service.chat("m")
        assert (answer.status_code, error_of(answer)["code"]) == (503, "model_load_failed")
        assert words in str(error_of(answer)["message"])
        assert service.servers() == []


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_in_silence_is_noticed_at_once(tmp_path: Path, stream: bool):
    """The engine computes and says nothing; our connection to it must close within 100 ms (asserted: 2 s)."""
    with faulty(tmp_path, FAKE_FIRST_BYTE_SECONDS=60) as service:
        with service.send_raw({"model": "m", "stream": stream}):
            wait_for(lambda: journal(service, "request"), 10)
            left_at = time.monotonic()
        ((closed_at, _),) = wait_for(lambda: journal(service, "closed"), 5)
        assert closed_at - left_at < 2.0
        wait_for(lambda: service.servers()[0]["requests"] == 0, 2)
        page = service.get("/metrics").text
        assert 'requests_total{code="499",endpoint="/v1/chat/completions",model="m"} 1.0' in page


def test_an_engine_that_goes_on_for_a_client_that_left_is_ended(tmp_path: Path):
    """It is given five seconds to notice by itself, as llama-server does within one."""
    with faulty(tmp_path, FAKE_DEAF=1, FAKE_TOKEN_DELAY_SECONDS=30) as service:
        with service.send_raw({"model": "m"}):
            wait_for(lambda: journal(service, "request"), 10)
        (engine,) = service.engines()
        wait_for(lambda: is_gone(engine), 15)
        wait_for(lambda: "why=abandoned" in service.output, 10)  # the log's reader may be behind


def test_an_engine_that_watches_nothing_dies_with_a_killed_master(tmp_path: Path):
    """Nor does any engine watch its stdin while it loads: only the kernel can end it then."""
    with faulty(tmp_path, FAKE_LOAD="hang", FAKE_PORT_ZERO=1) as service, service.send_raw({"model": "m"}):
        wait_for(lambda: journal(service, "bind"), 10)
        family = service.family()
        assert len(family) == 3, "master, worker, engine"
        service.master.kill()
        wait_for(lambda: all(is_gone(process) for process in family), 2)


def test_the_head_of_a_stream_does_not_wait_for_the_first_token(tmp_path: Path):
    with (
        faulty(tmp_path, FAKE_TOKEN_DELAY_SECONDS=30) as service,
        service.send_raw({"model": "m", "stream": True}) as connection,
    ):
        assert connection.recv(12) == b"HTTP/1.1 200"  # within the socket's 10 s


def test_clients_that_leave_a_queue_are_forgotten(tmp_path: Path):
    with faulty(tmp_path, FAKE_LOAD_SECONDS=3) as service:
        waiting = [service.send_raw({"model": "m"}) for _ in range(20)]
        wait_for(lambda: service.get("/health").json()["waiting"] == 20, 5)
        for connection in waiting:
            connection.close()
        wait_for(lambda: service.get("/health").json()["waiting"] == 0, 2)
        wait_for(lambda: [s["state"] for s in service.servers()] == ["ready"], 10)
        assert len(journal(service, "request")) == 0


def test_a_crash_in_mid_stream_reaches_the_client_as_an_error(tmp_path: Path):
    """Without it the stream would just end, which client libraries take for success."""
    with faulty(tmp_path, FAKE_DIE_AFTER_TOKENS=3) as service:
        client = openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0)
        with client, pytest.raises(openai.APIError, match="ended during the request"):
            list(client.chat.completions.create(model="m", messages=[], stream=True))


def test_a_crash_before_the_first_byte(tmp_path: Path):
    with faulty(tmp_path, FAKE_DIE_AFTER_TOKENS=3) as service:
        answer = service.chat("m")
        assert (answer.status_code, error_of(answer)["code"]) == (502, "upstream_crashed")
        assert answer.headers["x-should-retry"] == "false"


def test_a_small_body_that_ends_too_early_is_an_error(tmp_path: Path):
    """It is sent once it is whole: nothing of it has gone out when it ends."""
    with faulty(tmp_path, FAKE_TRUNCATE=1) as service:
        answer = service.chat("m")
        assert (answer.status_code, error_of(answer)["code"]) == (502, "upstream_crashed")
        wait_for(lambda: service.servers()[0]["requests"] == 0, 5)


def test_a_stream_that_ends_too_early_ends_with_an_error(tmp_path: Path):
    with faulty(tmp_path, FAKE_TRUNCATE=1) as service:
        lines = [line.decode() for line in service.chat("m", stream=True).iter_lines() if line]
        assert "upstream_crashed" in lines[-1]
        assert "data: [DONE]" not in lines


@pytest.mark.parametrize("fault", ["FAKE_GARBAGE", "FAKE_BAD_HEADER_NAME"])
def test_an_engine_that_speaks_no_http(tmp_path: Path, fault: str):
    with faulty(tmp_path, **{fault: 1}) as service:
        answer = service.chat("m")
        assert (answer.status_code, error_of(answer)["code"]) == (502, "bad_upstream")


@pytest.mark.parametrize("status", [400, 429, 500, 503])
def test_the_engines_own_errors_pass_through(tmp_path: Path, status: int):
    with faulty(tmp_path, FAKE_STATUS=status) as service:
        answer = service.chat("m")
        assert answer.status_code == status
        assert error_of(answer)["message"] == "told to fail"
        assert "x-llama-smart-proxy-error" not in answer.headers


def test_an_answer_that_does_not_begin_in_time(tmp_path: Path):
    with faulty(tmp_path, {"UPSTREAM__FIRST_BYTE_SECONDS": "0.5"}, FAKE_FIRST_BYTE_SECONDS=30) as service:
        answer = service.chat("m")
        assert (answer.status_code, error_of(answer)["code"]) == (504, "upstream_timeout")
        assert service.servers()[0]["state"] == "ready", "slow is not broken"


def test_an_answer_that_stalls(tmp_path: Path):
    with faulty(tmp_path, {"UPSTREAM__STALL_SECONDS": "0.5"}, FAKE_TOKEN_DELAY_SECONDS=30) as service:
        lines = [line.decode() for line in service.chat("m", stream=True).iter_lines() if line]
        assert "upstream_timeout" in lines[-1]


def test_an_engine_that_ignores_sigterm_is_killed(tmp_path: Path):
    with faulty(tmp_path, {"SERVER__STOP_SECONDS": "0.5"}, FAKE_IGNORE_TERM=1) as service:
        service.chat("m")
        family = service.family()
        assert service.stop() == 0
        assert all(is_gone(process) for process in family)


def test_an_engine_that_waits_for_its_routers_order_ends_at_once(tmp_path: Path):
    """A llama-server with LLAMA_SERVER_ROUTER_PORT ends its HTTP at SIGTERM, then waits for a word on stdin: every stop
    took `stop_seconds`, and a SIGKILL."""
    with faulty(tmp_path, {"SERVER__STOP_SECONDS": "300"}, FAKE_WAITS_FOR_ORDER=1) as service:
        service.chat("m")
        assert service.stop() == 0
        assert "exit status 0" in service.output


@pytest.mark.parametrize("how", ["stop", "kill the engine"])
def test_a_grandchild_that_holds_the_pipes_goes_with_its_parent(tmp_path: Path, how: str):
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
        wait_for(lambda: is_gone(grandchild), 5)


def test_a_flood_of_log_holds_nobody_up_and_takes_no_memory(tmp_path: Path):
    with faulty(tmp_path, FAKE_STDERR_MB=50) as service:
        before = service.worker.memory_info().rss
        assert service.chat("m").status_code == 200
        assert service.worker.memory_info().rss - before < 30 * 2**20


def test_an_engine_that_never_listens_is_ended(tmp_path: Path):
    with faulty(tmp_path, {"SCHEDULING__STALL_TIMEOUT_SECONDS": "1"}, FAKE_NO_BIND=1) as service:
        assert error_of(service.chat("m"))["code"] == "load_timeout"


def test_a_queue_that_is_full_says_when_to_come_back(tmp_path: Path):
    settings = {"SCHEDULING__MAX_WAITING_PER_MODEL": "2"}
    with faulty(tmp_path, settings, FAKE_LOAD_SECONDS=3) as service:
        waiting = [service.send_raw({"model": "m"}) for _ in range(2)]
        wait_for(lambda: service.get("/health").json()["waiting"] == 2, 5)
        refused = service.chat("m")
        assert (refused.status_code, error_of(refused)["code"]) == (429, "queue_full")
        assert refused.headers["Retry-After"] == "1", "by its size the load takes no longer"
        for connection in waiting:
            connection.close()


def test_a_wait_ends_in_time(tmp_path: Path):
    with faulty(tmp_path, {"SCHEDULING__MAX_WAIT_SECONDS": "0.5"}, FAKE_LOAD_SECONDS=5) as service:
        refused = service.chat("m")
        assert (refused.status_code, error_of(refused)["code"]) == (503, "wait_timeout")


def test_a_configured_engine_that_is_not_there_is_said_and_the_service_stays(tmp_path: Path):
    with serving(tmp_path, ENGINE__BINARY="/nowhere/llama-server") as service:
        health = service.get("/health").json()
        assert (health["status"], health["degraded"]) == ("ok", True)
        assert "/nowhere/llama-server" in health["reasons"][0]
        assert service.get("/readyz").status_code == 503
        refused = service.chat()
        assert (refused.status_code, error_of(refused)["code"]) == (503, "no_engine")


def test_two_models_that_do_not_fit_together_take_turns(tmp_path: Path):
    """Room for one by the booked sizes: everyone is answered and never are two up at once."""
    with faulty(tmp_path) as service:
        for name in ("left", "right"):
            a_gguf(tmp_path / "models" / f"{name}.gguf", RAM_BYTES // 2)  # this engine does not read it
        service.process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(service.get("/v1/models").json()["data"]) == 3, 5)
        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(service.chat, name) for name in ("left", "right") * 3]
            seen = []
            while not all(each.done() for each in asked):
                seen.append([s["model_id"] for s in service.servers()])
                time.sleep(0.02)
        assert [each.result().status_code for each in asked] == [200] * 6
        assert max(map(len, seen)) == 1
        assert {tuple(names) for names in seen} >= {("left",), ("right",)}


def test_a_model_larger_than_the_machine_is_refused_with_the_numbers(tmp_path: Path):
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


def test_headers_that_cannot_be_passed_on_are_dropped_and_nothing_is_lost(tmp_path: Path):
    """gunicorn refuses control characters in a header: the answer failed and its slot was gone for ever."""
    with faulty(tmp_path, {"DEFAULTS__PARALLEL": "2"}, FAKE_BAD_HEADER=1) as service:
        for _ in range(4):
            answer = service.chat("m")
            assert answer.status_code == 200
            assert not {"X-Control", "Set-Cookie", "X-Llama-Smart-Proxy-Error"} & set(answer.headers)
        wait_for(lambda: service.servers()[0]["requests"] == 0, 5)  # released once the body is gone


def test_a_half_sent_event_is_ended_before_the_error(tmp_path: Path):
    with faulty(tmp_path, FAKE_CUT_EVENT=1) as service:
        lines = [line.decode() for line in service.chat("m", stream=True).iter_lines() if line]
        assert lines[-2] == 'data: {"choices": [{"delt'
        assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "upstream_crashed"


def test_an_engine_that_generates_on_after_our_own_time_out_is_ended(tmp_path: Path):
    settings = {"UPSTREAM__FIRST_BYTE_SECONDS": "0.5"}
    with faulty(tmp_path, settings, FAKE_DEAF=1, FAKE_TOKEN_DELAY_SECONDS=30) as service:
        assert service.chat("m").status_code == 504
        (engine,) = service.engines()
        wait_for(lambda: is_gone(engine), 15)


def test_an_engine_that_is_slow_to_count_its_slots_is_asked_again(tmp_path: Path):
    """The slot is not given away meanwhile: the engine may still be busy with it."""
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


def test_no_file_descriptor_left_is_said_and_got_over(tmp_path: Path):
    """The thread that owns the scheduler died of it, and every request after that waited for ever."""
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


def test_a_useless_state_directory_costs_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Not even a record could be removed, the end of a server was never told, its model was stuck."""
    monkeypatch.setenv("STATE_DIRECTORY", "/dev/null/nowhere")
    with faulty(tmp_path, {"SCHEDULING__TTL_SECONDS": "0.3"}) as service:
        assert service.chat("m").status_code == 200
        wait_for(lambda: not service.servers(), 10)
        assert service.chat("m").status_code == 200
        assert "not recorded" in service.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_engine_being_asked_what_it_can_do_does_not_outlive_us(tmp_path: Path, number: signal.Signals):
    binary = tmp_path / "llama-server"
    binary.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    binary.chmod(0o755)
    with serving(tmp_path, ENGINE__BINARY=str(binary)) as service:
        family = wait_for(lambda: len(service.family()) == 3 and service.family(), 10)
        service.process.send_signal(number)
        wait_for(lambda: all(is_gone(process) for process in family), 5)


def test_a_load_that_fails_again_and_again_is_not_tried_at_every_request(tmp_path: Path):
    with faulty(tmp_path, FAKE_LOAD="exit1", FAKE_PORT_ZERO=1) as service:
        answers = [service.chat("m") for _ in range(4)]
        assert {(each.status_code, error_of(each)["code"]) for each in answers} == {(503, "model_load_failed")}
        assert [each.headers.get("x-should-retry") for each in answers] == ["false", "false", None, None]
        assert {each.headers["Retry-After"] for each in answers[2:]} <= {"1", "2"}
        assert "failed 2 times in a row" in answers[3].text and "unknown model architecture" in answers[3].text
        assert len(journal(service, "start")) == 2
        order = requests.post(f"{service.url}/models/load", json={"model": "m"}, timeout=20)
        assert order.status_code == 200, "it is starting"
        wait_for(lambda: len(journal(service, "start")) == 3, 10)
