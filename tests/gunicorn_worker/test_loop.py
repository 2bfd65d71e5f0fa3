"""The main loop with a test handler: connections between two requests, and what ends them."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from tests.helpers.service import wait_for
from workers.gunicorn_worker import loop
from workers.gunicorn_worker.loop import ConnectionLoop
from workers.gunicorn_worker.receiving import ClientConnection, Phase
from workers.gunicorn_worker.request_handler import After
from workers.gunicorn_worker.timeouts import WorkerTimeouts

pytestmark = pytest.mark.gunicorn

GET = b"GET / HTTP/1.1\r\n\r\n"


class Echo:
    """A handler that answers each request with its head and returns `after`."""

    def __init__(self) -> None:
        self.after = After.KEEP
        self.served: list[ClientConnection] = []
        self.before_keeping: Callable[[ClientConnection], None] = lambda connection: None

    def handle(self, connection: ClientConnection) -> After:
        head, _, rest = connection.take_received().partition(b"\r\n\r\n")
        connection.received += rest
        self.served.append(connection)
        connection.sock.sendall(head)
        self.before_keeping(connection)
        return self.after


class Running:
    """A loop running on a thread."""

    def __init__(self, keepalive: float = 30.0, worker_connections: int = 8) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        cfg = SimpleNamespace(keepalive=keepalive, worker_connections=worker_connections, threads=2)
        self.loop = ConnectionLoop([self.listener], cfg, WorkerTimeouts(receive_timeout_seconds=60.0))
        self.handler = Echo()
        self.thread = threading.Thread(target=self.loop.run, args=(self.handler, lambda: None))

    def connect(self) -> socket.socket:
        return socket.create_connection(self.listener.getsockname(), timeout=20)

    def ask(self, client: socket.socket, request: bytes = GET) -> ClientConnection:
        """Send a request and receive its answer; returns the loop's connection."""
        client.sendall(request)
        assert client.recv(1000) == request.strip()
        return self.handler.served[-1]


@contextlib.contextmanager
def running(**settings: float) -> Iterator[Running]:
    made = Running(**settings)  # type: ignore[arg-type]
    made.thread.start()
    try:
        yield made
    finally:
        made.loop.stop()
        made.thread.join(20)
        made.listener.close()
    assert not made.thread.is_alive()


@pytest.fixture
def service() -> Iterator[Running]:
    with running() as made:
        yield made


def test_a_connection_is_taken_once_its_next_request_begins(service: Running):
    with service.connect() as client:
        connection = service.ask(client)
        wait_for(lambda: connection.phase is Phase.IDLE, 20)
        client.sendall(GET[:5])
        wait_for(lambda: connection.phase is Phase.HEAD, 20)
        client.sendall(GET[5:])
        assert client.recv(1000) == GET.strip()
        assert service.handler.served == [connection, connection]


def test_a_request_sent_before_the_answer_is_served_next(service: Running):
    """A client may send its next request before it has the answer to this one."""
    service.handler.before_keeping = lambda connection: client.sendall(GET) if len(service.handler.served) < 4 else None
    with service.connect() as client:
        client.sendall(GET)
        received = b""
        while len(received) < 4 * len(GET.strip()):
            received += client.recv(1000)
    assert len(service.handler.served) == 4


def test_clients_that_read_no_answers_occupy_no_threads(service: Running):
    """Their next requests wait until they read: as many such clients as threads would stop health checks too."""
    count, size = 3000, 4000  # more than the buffers of both ends hold
    service.handler.before_keeping = lambda connection: connection.sock.sendall(b"x" * size)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(service.connect()) for _ in range(2)]
        for client in clients:
            client.sendall(GET * count)
        wait_for(lambda: [c.phase for c in service.loop._connections] == [Phase.UNREAD] * 2, 20)
        with service.connect() as other:
            other.sendall(GET)
            assert other.recv(len(GET)).startswith(GET.strip())
        expected_bytes = count * (len(GET.strip()) + size)
        for client in clients:
            received_bytes = 0
            while received_bytes < expected_bytes:
                piece = client.recv(1024 * 1024)
                assert piece, f"the connection was closed after {received_bytes} bytes"
                received_bytes += len(piece)
            assert received_bytes == expected_bytes


class Held:
    """Both threads of a service, held by a client each until `release`."""

    def __init__(self, service: Running, stack: contextlib.ExitStack) -> None:
        self.is_released = threading.Event()
        stack.callback(self.is_released.set)
        service.handler.before_keeping = lambda connection: self.is_released.wait(20) and None
        self.clients = [stack.enter_context(service.connect()) for _ in range(2)]
        for client in self.clients:
            service.ask(client)

    def release(self) -> None:
        self.is_released.set()


def queued(service: Running) -> list[ClientConnection]:
    return [each for each in service.loop._connections if each.phase is Phase.QUEUED]


def test_a_request_waits_for_a_thread_that_is_about_to_be_free(service: Running):
    """A client has its whole answer before its thread is free. Its next request, and those of others, were refused."""
    with contextlib.ExitStack() as stack:
        held = Held(service, stack)
        waiting = [stack.enter_context(service.connect()) for _ in range(2)]
        for number, client in enumerate(waiting):
            client.sendall(GET)
            wait_for(lambda number=number: len(queued(service)) == number + 1, 20)
        for connection in queued(service):
            connection.deadline = math.inf
        held.release()
        for client in waiting:
            assert client.recv(1000) == GET.strip()


def test_a_request_waits_only_briefly_for_a_thread(service: Running, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loop, "THREAD_WAIT_SECONDS", 0.05)
    with contextlib.ExitStack() as stack:
        held = Held(service, stack)
        client = stack.enter_context(service.connect())
        client.sendall(GET)
        assert client.recv(1000).startswith(b"HTTP/1.1 503")
        held.release()
        for each in held.clients:
            service.ask(each)


def test_no_more_requests_wait_for_a_thread_than_there_are(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loop, "THREAD_WAIT_SECONDS", 60.0)
    with running(worker_connections=64) as service, contextlib.ExitStack() as stack:
        held = Held(service, stack)
        waiting = [stack.enter_context(service.connect()) for _ in range(2)]
        for client in waiting:
            client.sendall(GET)
        wait_for(lambda: len(queued(service)) == 2, 20)
        with service.connect() as one_more:
            one_more.sendall(GET)
            assert one_more.recv(1000).startswith(b"HTTP/1.1 503")
        held.release()
        for client in waiting:
            assert client.recv(1000) == GET.strip()


def test_an_idle_connection_is_closed_after_its_timeout():
    with running(keepalive=0.2) as service, service.connect() as client:
        service.ask(client)
        assert client.recv(1) == b""


def test_the_youngest_idle_connection_outlives_the_oldest(service: Running):
    with service.connect() as old, service.connect() as young:
        old_one, young_one = service.ask(old), service.ask(young)
        wait_for(lambda: young_one.phase is Phase.IDLE, 20)
        old_one.deadline = 0.0
        assert old.recv(1) == b""
        assert service.ask(young) is young_one


def test_a_connection_is_not_closed_while_its_thread_still_gives_it_back(service: Running):
    """Its thread was paused between marking it idle and watching its socket: the socket was closed meanwhile, and the
    thread ended with an exception."""
    watch, is_paused, may_go_on = service.loop._watch, threading.Event(), threading.Event()

    def paused_watch(connection: ClientConnection, *events: int) -> None:
        if threading.current_thread() is not service.thread:
            connection.deadline = 0.0  # the main loop finds it due
            is_paused.set()
            may_go_on.wait(20)
            assert connection.sock.fileno() >= 0
        watch(connection, *events)

    service.loop._watch = paused_watch  # type: ignore[method-assign]
    with service.connect() as client:
        connection = service.ask(client)
        assert is_paused.wait(20)
        service.loop._sweep_at = 0.0
        time.sleep(0.2)  # a sweep comes at least once a second, and at once with another connection
        with service.connect():
            time.sleep(0.2)
            assert connection.sock.fileno() >= 0
            may_go_on.set()
            assert client.recv(1) == b""


def test_a_reused_descriptor_is_a_new_connection(service: Running):
    numbers = []
    for _ in range(10):
        with service.connect() as client:
            connection = service.ask(client)
            numbers.append(connection.sock.fileno())
        wait_for(lambda sock=connection.sock: sock.fileno() == -1, 20)
    assert len(set(numbers)) < 10, "the kernel gives the lowest that is free, most often the same one"
    assert len(set(map(id, service.handler.served))) == 10


def test_a_closed_connection_that_a_child_still_holds_is_ignored(service: Running):
    """A llama-server just forked holds copies of all sockets until its exec, so epoll reports a connection that was
    closed meanwhile. The main loop took its descriptor for a listener's and died of a KeyError."""
    with service.connect() as client:
        connection = service.ask(client)
        wait_for(lambda: connection.phase is Phase.IDLE, 20)
        copy = os.dup(connection.sock.fileno())
        try:
            connection.deadline = 0.0
            wait_for(lambda: connection.sock.fileno() == -1, 20)
            client.sendall(GET)
            with service.connect() as other:
                service.ask(other)
        finally:
            os.close(copy)


def open_connections(service: Running, stack: contextlib.ExitStack, count: int, sent: bytes) -> list[socket.socket]:
    """So many connections that have waited for a while, with these bytes."""
    clients = [stack.enter_context(service.connect()) for _ in range(count)]
    for client in clients:
        client.sendall(sent)
    wait_for(lambda: len(service.loop._connections) == count, 20)
    for connection in list(service.loop._connections):
        connection.since -= 1.0
    return clients


@pytest.mark.parametrize("sent", [b"", GET[:5]])
def test_at_the_limit_the_connection_that_waited_longest_makes_room(sent: bytes):
    """Connections beyond the limit used to wait for others to close: half-sent heads kept health checks out."""
    with running(worker_connections=8) as service, contextlib.ExitStack() as stack:
        clients = open_connections(service, stack, 4, sent)  # half of all, the bound of one address
        with service.connect() as other:
            service.ask(other)
            answer = clients[0].recv(1000)
            assert answer.startswith(b"HTTP/1.1 503") if sent else answer == b""
            assert len(service.loop._connections) == 4


def test_an_idle_connection_makes_room_too():
    with running(worker_connections=8) as service, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(service.connect()) for _ in range(4)]
        kept = []
        for client in clients:
            kept.append(service.ask(client))
            wait_for(lambda: kept[-1].phase is Phase.IDLE, 20)
        for connection in kept:
            connection.since -= 1.0
        kept[2].since -= 1.0
        service.ask(stack.enter_context(service.connect()))
        assert clients[2].recv(1) == b""
        service.ask(clients[0])


def test_a_request_that_is_served_never_makes_room():
    with running(worker_connections=4) as service, contextlib.ExitStack() as stack:
        is_released = threading.Event()
        stack.callback(is_released.set)
        service.handler.before_keeping = lambda connection: is_released.wait(20) and None
        first, second = (stack.enter_context(service.connect()) for _ in range(2))
        for client in (first, second):
            service.ask(client)
        for _ in range(5):
            stack.enter_context(service.connect()).sendall(GET[:5])
        service.handler.before_keeping = lambda connection: None
        is_released.set()
        for client in (first, second):
            service.ask(client)


@pytest.mark.parametrize("first_bytes", [b"\x16\x03\x01\x02\x00\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
def test_another_protocol_is_answered_at_once(service: Running, first_bytes: bytes):
    """A TLS ClientHello got silence until the time-out of the head, a minute here."""
    with service.connect() as client:
        client.sendall(first_bytes)
        assert client.recv(1000).startswith(b"HTTP/1.1 400")


def test_an_answer_that_was_cut_ends_in_a_reset(service: Running):
    service.handler.after = After.RESET
    with service.connect() as client:
        client.sendall(GET)
        with pytest.raises(ConnectionResetError):
            while client.recv(1000):
                pass


def test_a_client_reads_the_whole_answer_before_its_connection_is_closed(service: Running):
    """Closed at once, the bytes that nobody read would reset the connection."""
    service.handler.after = After.CLOSE
    with service.connect() as client:
        client.sendall(GET + b"x" * 200_000)
        received = b""
        while data := client.recv(1000):
            received += data
    assert received == GET.strip()
