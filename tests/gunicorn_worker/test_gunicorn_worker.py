"""Real gunicorn and our worker with a fake service: how the process that owns the GPUs handles clients and signals."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from workers.gunicorn_worker.permits import MAX_WAITING_HEALTH_CHECKS
from workers.gunicorn_worker.receiving import ClientConnection, Head

pytestmark = pytest.mark.gunicorn

THREADS = 24
RECEIVE_TIMEOUT_SECONDS = 1.0
PROBE = Path(__file__).parents[1] / "helpers" / "gunicorn_probe.py"
GET_PING = b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n"
LAST_PING = b"GET /ping HTTP/1.0\r\n\r\n"
CHUNKED = b"Host: a\r\nTransfer-Encoding: chunked\r\n\r\n"


class Service:
    """A gunicorn with our worker, in its own process group."""

    def __init__(self, folder: Path, **settings) -> None:
        self.folder = folder
        server = {"host": "127.0.0.1", "port": 0, "threads": THREADS, "reserve_threads": 2}
        server |= {"receive_timeout_seconds": RECEIVE_TIMEOUT_SECONDS, "drain_seconds": 5.0, "stop_seconds": 1.0}
        with (folder / "log").open("wb") as log:
            command = [sys.executable, str(PROBE), str(folder), json.dumps(server | settings)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def wait_ready(self) -> Service:
        wait_for(lambda: re.search(r"Listening at: http://127.0.0.1:(\d+)", self.log()))
        self.port = int(re.search(r"Listening at: http://127.0.0.1:(\d+)", self.log())[1])
        assert self.get("/ping") == (200, b"pong")
        return self

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def events(self) -> list[str]:
        path = self.folder / "events"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if not line.startswith("worker ")]

    def workers(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.process.pid).children()]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def get(self, path: str) -> tuple[int, bytes]:
        with self.connect() as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            return answer(client)[::2]

    def pids(self) -> tuple[int, int]:
        """The worker's pid and its child's."""
        worker, child = json.loads(self.get("/pids")[1])
        return worker, child

    @contextlib.contextmanager
    def streaming(self, count: int, pause_seconds: float = 0.1, piece_bytes: int = 1) -> Iterator[socket.socket]:
        with self.connect() as client:
            client.sendall(f"GET /stream?{count},{pause_seconds},{piece_bytes} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert client.recv(1) == b"H"
            yield client

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(20)


@pytest.fixture
def service(tmp_path) -> Iterator[Service]:
    started = Service(tmp_path)
    try:
        yield started.wait_ready()
    finally:
        started.end()


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[Service]:
    started = Service(tmp_path_factory.mktemp("shared"))
    try:
        yield started.wait_ready()
        log = started.log()
        for line in EXPECTED_TRACEBACKS:
            log = log.replace(f"{line}\nTraceback", line)
        assert "Traceback" not in log
    finally:
        started.end()


EXPECTED_TRACEBACKS = ("request failed path=/bug", "answer failed path=/failing")


def wait_for(condition: Callable[[], object], timeout_seconds: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def answer(client: socket.socket, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """Status, headers (lower case) and body of the next response."""
    response = http.client.HTTPResponse(client, method=method)
    response.begin()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return response.status, headers, response.read()


def bodies(client: socket.socket) -> list[bytes]:
    """The bodies of all responses until the connection closes, each of one line."""
    with client.makefile("rb") as answers:
        return re.findall(rb"\r\n\r\n(.*?)(?=HTTP/1|$)", answers.read())


def assert_refused(client: socket.socket, status: int, code: str) -> dict[str, str]:
    """The next response is our error, and the connection ends after it; returns its headers."""
    got, headers, body = answer(client)
    error = json.loads(body)["error"]
    assert (got, error["code"], set(error)) == (status, code, {"message", "type", "param", "code"})
    assert headers["content-type"] == "application/json"
    assert (headers["connection"], headers["x-llama-smart-proxy-error"]) == ("close", "1")
    assert client.recv(1) == b""
    return headers


def is_answered(clients: list[socket.socket]) -> bool:
    """Whether any of them has received something, or was closed."""
    return bool(select.select(clients, [], [], 0)[0])


def trickle_until_refused(client: socket.socket) -> None:
    """A deadline that begins anew with each byte would never come."""
    deadline = time.monotonic() + 20
    with contextlib.suppress(OSError):
        while not select.select([client], [], [], 0.05)[0] and time.monotonic() < deadline:
            client.sendall(b"x")
    assert is_answered([client])
    assert_refused(client, 408, "request_timeout")


def seconds_of(act: Callable[[], object]) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


# Heads


def test_half_sent_heads_hold_no_thread(shared):
    """gunicorn reads heads on pool threads: as many half-sent ones as threads starve every other request."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(shared.connect()) for _ in range(THREADS)]
        for client in clients:
            client.sendall(b"POST /echo HTTP/1.1\r\nHost: a\r\nX-Half: ")
        began = time.monotonic()
        assert shared.get("/ping") == (200, b"pong")
        assert not is_answered(clients), "it did not wait for their time-out"
        for client in clients:
            headers = assert_refused(client, 408, "request_timeout")
            assert headers["x-should-retry"] == "false"
        assert time.monotonic() - began > 0.8 * RECEIVE_TIMEOUT_SECONDS


def test_a_head_that_trickles_in_has_one_deadline(shared):
    with shared.connect() as client:
        trickle_until_refused(client)


def test_a_silent_connection_is_closed_silently(shared):
    with shared.connect() as client:
        began = time.monotonic()
        assert client.recv(1) == b""
        assert time.monotonic() - began > 0.5 * RECEIVE_TIMEOUT_SECONDS


def test_a_client_that_disconnects_in_mid_head_is_closed_at_once(shared):
    with shared.connect() as client:
        client.sendall(b"GET /ping")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b"", "at its time-out it would get a 408"


def test_a_head_in_many_packets_is_understood(shared):
    with shared.connect() as client:
        for byte in b"\r\n" + GET_PING:
            client.sendall(bytes([byte]))
            time.sleep(0.001)
        assert answer(client)[::2] == (200, b"pong")


def test_one_connection_carries_several_requests(shared):
    with shared.connect() as client:
        for _ in range(3):
            client.sendall(GET_PING)
            status, headers, body = answer(client)
            assert (status, headers["connection"], body) == (200, "keep-alive", b"pong")
            time.sleep(0.05)


def test_pipelined_requests_are_answered_in_order(shared):
    requests = [b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n%d" % n for n in range(4)]
    whole = b"".join(requests)
    with shared.connect() as client:
        client.sendall(whole[:-20])
        time.sleep(0.1)  # so that the last head arrives half
        client.sendall(whole[-20:] + LAST_PING)
        assert bodies(client) == [b"0", b"1", b"2", b"3", b"pong"]


def test_a_pipelined_request_is_answered_after_the_client_closed_its_side(shared):
    with shared.connect() as client:
        client.sendall(GET_PING * 2)
        client.shutdown(socket.SHUT_WR)
        assert bodies(client) == [b"pong", b"pong"]


def test_http_1_0_closes_unless_keep_alive_is_requested(shared):
    with shared.connect() as client:
        client.sendall(b"GET /ping HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert answer(client)[2] == b"pong"
        client.sendall(b"GET /ping HTTP/1.0\r\n\r\n")
        assert answer(client)[2] == b"pong"
        assert client.recv(1) == b""


@pytest.mark.parametrize(
    ("head", "status"),
    [
        pytest.param(b"nonsense\r\n\r\n", 400, id="no request line"),
        pytest.param(b"GET /ping HTTP/1.1\nHost: a\n\n", 400, id="bare line feeds"),
        pytest.param(b"\r\n\r\n", 400, id="nothing but line ends"),
        pytest.param(b"GET /ping HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, id="two hosts"),
        pytest.param(b"POST /echo HTTP/1.1\r\nContent-Length: 3\r\n" + CHUNKED + b"0\r\n\r\n", 400, id="two lengths"),
        pytest.param(b"POST /echo HTTP/1.1\r\nTransfer-Encoding: rot13\r\n\r\n", 400, id="unknown coding"),
        pytest.param(b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", 414, id="long request line"),
        pytest.param(b"GET /ping HTTP/1.1\r\nExpect: miracles\r\n\r\n", 417, id="expectation"),
        pytest.param(b"GET /ping HTTP/1.1\r\nX: " + b"x" * 9000 + b"\r\n\r\n", 431, id="long field"),
        pytest.param(b"GET /ping HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431, id="many fields"),
        pytest.param(b"GET /ping HTTP/1.1\r\n" + b"X: y\r\n" * 100_000, 431, id="endless head"),
    ],
)
def test_a_head_that_cannot_be_served_is_refused_at_once(shared, head, status):
    with shared.connect() as client:
        client.sendall(head)
        began = time.monotonic()
        assert "x-should-retry" not in assert_refused(client, status, "invalid_request")
        assert time.monotonic() - began < RECEIVE_TIMEOUT_SECONDS / 2


def test_an_error_for_a_head_has_the_form_of_the_path(shared):
    with shared.connect() as client:
        client.sendall(b"POST /v1/messages HTTP/1.1\r\nX: " + b"x" * 9000 + b"\r\n\r\n")
        status, _, body = answer(client)
        assert (status, json.loads(body)["error"]["type"]) == (431, "invalid_request_error")
        assert json.loads(body)["type"] == "error"


def test_a_client_that_does_not_close_delays_nobody(shared):
    """gunicorn waits for such a client in the main loop, 2 s each."""
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            client = stack.enter_context(shared.connect())
            client.sendall(b"GET /ping HTTP/1.0\r\n\r\n")
            assert answer(client)[2] == b"pong"
        # Expected: 2 ms. It would wait for all five.
        assert seconds_of(lambda: shared.get("/ping")) < 5


# Bodies


def test_a_chunked_body_is_read(shared):
    with shared.connect() as client:
        client.sendall(b"POST /echo HTTP/1.1\r\n" + CHUNKED + b"5\r\nhello\r\n")
        client.sendall(b"6\r\n world\r\n0\r\n\r\n" + LAST_PING)
        assert bodies(client) == [b"hello world", b"pong"]


def test_a_client_that_expects_100_continue_gets_it(shared):
    with shared.connect() as client:
        client.sendall(b"POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"hello")
        assert answer(client)[2] == b"hello"


def test_a_large_body_arrives_whole(shared):
    with shared.connect() as client:
        client.sendall(b"POST /sum HTTP/1.1\r\nHost: a\r\nContent-Length: 20000000\r\n\r\n" + b"x" * 20_000_000)
        assert answer(client)[2] == b"20000000"


READERS = ["/echo", "/flask", "/flask?limit=1000000", "/flask/deaf"]


@pytest.mark.parametrize("path", READERS)
def test_a_body_that_stalls_ends_in_408(shared, path):
    """However the application handles it: Flask alone would answer 500, or with a length limit 400."""
    with shared.connect() as client:
        client.sendall(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf".encode())
        assert assert_refused(client, 408, "request_timeout")["x-should-retry"] == "false"


def test_a_body_that_trickles_in_ends_in_408(shared):
    with shared.connect() as client:
        client.sendall(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
        trickle_until_refused(client)


def test_a_steady_body_may_take_longer_than_the_time_out(shared):
    with shared.connect() as client:
        client.sendall(b"POST /sum HTTP/1.1\r\nHost: a\r\nContent-Length: 2250000\r\n\r\n")
        for _ in range(15):  # 15 x 150 kB in 1.5 s = 1.5 MB/s
            client.sendall(b"x" * 150_000)
            time.sleep(0.1)
        assert answer(client)[2] == b"2250000"


def test_an_application_that_reads_late_is_not_the_clients_fault(shared):
    with shared.connect() as client:
        client.sendall(b"POST /late?1.3 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
        time.sleep(0.1)
        client.sendall(b"hello")
        assert answer(client)[2] == b"hello"


@pytest.mark.parametrize("path", READERS)
@pytest.mark.parametrize(
    "request_rest",
    [b"Host: a\r\nContent-Length: 100\r\n\r\nhalf", CHUNKED + b"5\r\nhe", CHUNKED + b"xyz\r\nhello"],
    ids=["cut off", "cut off in a chunk", "bad chunk"],
)
def test_a_broken_body_ends_in_400(shared, path, request_rest):
    """gunicorn gives a cut-off body to the application as if it were whole."""
    with shared.connect() as client:
        client.sendall(f"POST {path} HTTP/1.1\r\n".encode() + request_rest)
        client.shutdown(socket.SHUT_WR)
        assert_refused(client, 400, "invalid_request")


def test_an_unread_body_does_not_spoil_the_next_request(shared):
    with shared.connect() as client:
        client.sendall(b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000 + LAST_PING)
        assert bodies(client) == [b"not interested", b"pong"]


def test_a_response_may_wait_for_its_reader_longer_than_the_time_out(shared):
    with shared.streaming(count=20, pause_seconds=0, piece_bytes=1_000_000) as client:
        time.sleep(1.3 * RECEIVE_TIMEOUT_SECONDS)
        received = 0
        with client.makefile("rb") as answers:
            while not (line := answers.readline()).startswith(b"0\r\n"):
                received += line.count(b"x")
    assert received == 20_000_000


def test_a_bug_in_the_application_is_a_json_500(shared):
    with shared.connect() as client:
        client.sendall(b"GET /bug HTTP/1.1\r\nHost: a\r\n\r\n")
        assert assert_refused(client, 500, "internal_error")["x-should-retry"] == "false"


def test_an_answer_that_ends_with_its_connection_and_fails_is_reset(shared):
    """The connection was closed as usual, so an HTTP/1.0 client took half an answer for all of it."""
    with shared.connect() as client:
        client.sendall(b"GET /failing HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            while client.recv(1000):
                pass


def test_a_chunked_answer_that_fails_ends_without_its_last_chunk(shared):
    with shared.connect() as client:
        client.sendall(b"GET /failing HTTP/1.1\r\nHost: a\r\n\r\n")
        with pytest.raises(http.client.IncompleteRead):
            answer(client)


def test_a_body_shorter_than_its_content_length_closes_the_connection(shared):
    """The connection was kept: the client waited for the rest, and took the next answer for it."""
    with shared.connect() as client:
        client.sendall(b"GET /short HTTP/1.1\r\nHost: a\r\n\r\n" + LAST_PING)
        with pytest.raises(http.client.IncompleteRead):
            answer(client)


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_the_end_of_a_head_is_found_wherever_packets_are_cut(step):
    head = b"GET / HTTP/1.1\r\nA: b\r\n\r\n"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = ClientConnection(ours, None, None)
        for start in range(0, len(head), step):
            assert connection.read_head() is Head.PARTIAL
            theirs.sendall(head[start : start + step])
        assert connection.read_head() is Head.COMPLETE


# Threads


def all_threads_held(shared: Service, stack: contextlib.ExitStack) -> list[socket.socket]:
    """Clients whose requests occupy every thread until FOLDER/released is there."""
    holding, released = shared.folder / "holding", shared.folder / "released"
    holding.unlink(missing_ok=True)
    released.unlink(missing_ok=True)
    stack.callback(released.touch)
    busy = [stack.enter_context(shared.connect()) for _ in range(THREADS)]
    for client in busy:
        client.sendall(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
    wait_for(lambda: holding.exists() and holding.read_text().count("one") == THREADS)
    return busy


def test_when_every_thread_stays_busy_the_next_request_is_rejected(shared):
    with contextlib.ExitStack() as stack:
        busy = all_threads_held(shared, stack)
        with shared.connect() as client:
            client.sendall(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n" + b"x" * 900_000)
            headers = assert_refused(client, 503, "overloaded")
            assert not is_answered(busy)
            assert headers["retry-after"] == "1" and "x-should-retry" not in headers
        (shared.folder / "released").touch()
        assert [answer(client)[2] for client in busy] == [b"held"] * THREADS
    assert shared.get("/ping") == (200, b"pong")


def test_a_limited_number_of_health_checks_waits_for_a_thread(shared):
    """In a burst, every thread may be busy rejecting requests; the service is healthy nonetheless."""
    with contextlib.ExitStack() as stack:
        all_threads_held(shared, stack)
        asking = [stack.enter_context(shared.connect()) for _ in range(MAX_WAITING_HEALTH_CHECKS + 1)]
        for client in asking:
            client.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
            time.sleep(0.001)
        *waiting, last = asking
        assert_refused(last, 503, "overloaded")
        (shared.folder / "released").touch()
        statuses = {answer(client)[0] for client in waiting}
        assert len(statuses) == 1 and 503 not in statuses
    assert shared.get("/ping") == (200, b"pong")


def test_as_many_requests_as_threads_are_answered_again_and_again(shared):
    """The count of busy threads must be exact: one lost, and the last of them is refused."""

    def ask_often() -> None:
        with shared.connect() as client:
            for _ in range(50):
                client.sendall(GET_PING)
                statuses.append(answer(client)[0])

    statuses: list[int] = []
    clients = [threading.Thread(target=ask_often) for _ in range(THREADS - 1)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert statuses == [200] * 50 * (THREADS - 1)


# Stopping


def stop(service: Service, number: int, to_group: bool = False) -> None:
    os.killpg(service.process.pid, number) if to_group else service.process.send_signal(number)


@pytest.mark.parametrize(
    ("number", "to_group"),
    [(signal.SIGTERM, False), (signal.SIGQUIT, False), (signal.SIGINT, True)],
    ids=["TERM", "QUIT", "Ctrl-C"],
)
def test_a_stop_lets_streams_end_and_answers_meanwhile(service, number, to_group):
    """Ctrl-C reaches master and worker; both count as one."""
    _, child = service.pids()
    with service.streaming(count=6) as client:
        stop(service, number, to_group)
        wait_for(lambda: "begin_drain" in service.events())
        with service.connect() as another:
            another.sendall(b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n")
            status, headers, body = answer(another)
            assert (status, headers["connection"], body) == (200, "close", b"draining")
        with client.makefile("rb") as answers:
            assert answers.read().endswith(b"0\r\n\r\n")
    assert service.process.wait(20) == 0
    assert service.events() == ["begin_drain", "drained True", "close"]
    assert is_gone(child)


@pytest.mark.parametrize("idle_connections", [0, 3])
def test_an_idle_service_stops_at_once(tmp_path, idle_connections):
    """Neither idle nor half-sent connections hold it."""
    with contextlib.ExitStack() as stack:
        service = Service(tmp_path, receive_timeout_seconds=60.0, drain_seconds=60.0)
        stack.callback(service.end)
        service.wait_ready()
        for number in range(idle_connections):
            client = stack.enter_context(service.connect())
            client.sendall(GET_PING if number else b"GET ")
            assert not number or answer(client)[2] == b"pong"
        service.process.send_signal(signal.SIGTERM)
        # Expected: 0.1 s (the arbiter looks every 0.1 s), 0.3 s with idle connections.
        assert service.process.wait(20) == 0


def test_signals_within_a_second_count_as_one(service):
    with service.streaming(count=8) as client:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
            service.process.send_signal(number)
            time.sleep(0.02)
        with client.makefile("rb") as answers:
            assert answers.read().endswith(b"0\r\n\r\n")
    assert service.process.wait(20) == 0


def test_a_later_stop_signal_means_now(service):
    _, child = service.pids()
    with service.streaming(count=1000):
        service.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "begin_drain" in service.events())
        time.sleep(1.1)
        service.process.send_signal(signal.SIGTERM)
        service.process.wait(20)
    assert service.events() == ["begin_drain", "kill"]
    assert is_gone(child)


def test_a_client_that_never_reads_does_not_hold_the_exit(tmp_path):
    """concurrent.futures joins its threads when Python exits, and one of them sits in sendall."""
    service = Service(tmp_path, drain_seconds=0.3)
    try:
        service.wait_ready()
        with service.streaming(count=1000, pause_seconds=0, piece_bytes=1_000_000):
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(20) == 0
        assert service.events() == ["begin_drain", "drained False", "close"]
    finally:
        service.end()


def test_a_killed_master_takes_worker_and_child_with_it(service):
    worker, child = service.pids()
    with service.streaming(count=1000):
        service.process.kill()
        wait_for(lambda: is_gone(worker) and is_gone(child), timeout_seconds=2)


def test_a_killed_worker_takes_its_child_with_it_and_is_replaced(service):
    worker, child = service.pids()
    os.kill(worker, signal.SIGKILL)
    assert service.get("/ping") == (200, b"pong")  # it waits in the backlog
    wait_for(lambda: is_gone(worker) and is_gone(child), timeout_seconds=2)
    assert service.pids()[0] != worker


def test_hup_reloads_inside_the_worker(service):
    worker, _ = service.pids()
    with service.streaming(count=5) as client:
        service.process.send_signal(signal.SIGHUP)
        wait_for(lambda: service.events() == ["reload reload"])
        with client.makefile("rb") as answers:
            answers.readline()
    assert service.pids()[0] == worker
    assert len(service.workers()) == 1


def test_signals_that_would_start_a_second_worker_are_rejected(service):
    worker, _ = service.pids()
    for name in ("USR2", "TTIN", "TTOU"):
        service.process.send_signal(getattr(signal, f"SIG{name}"))
        wait_for(lambda name=name: f"refused: SIG{name}" in service.log())
    assert service.workers() == [worker]
    assert service.get("/ping") == (200, b"pong")


# Starting


def test_what_cannot_start_is_not_tried_for_ever(tmp_path):
    service = Service(tmp_path, refuse_to_start="models_dirs: no such folder: /nowhere")
    try:
        assert service.process.wait(20) == 4
        assert "models_dirs: no such folder: /nowhere" in service.log()
        assert "Traceback" not in service.log()
    finally:
        service.end()


@pytest.mark.parametrize("wrong", [{"workers": 2}, {"max_requests": 10}, {"reuse_port": True}])
def test_a_configuration_with_a_second_owner_is_refused(tmp_path, wrong):
    service = Service(tmp_path, gunicorn=wrong)
    try:
        assert service.process.wait(20) == 1
        assert f"{next(iter(wrong))} must be" in service.log()
    finally:
        service.end()
