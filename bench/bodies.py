"""Measures how long request bodies pause a running stream.

    python -m bench.bodies [--seconds N] [--json] [--record FILE]

A stand-in engine sends an event every 5 ms; a client in a process of its own notes the gaps between them, first without
other requests, then beside requests with large bodies, one after the other or at once. Goal: p99.9 of the gaps within
100 ms of that without. The requests name a model that does not exist: bodies are received and read, and forwarded only
where it says so. Also: health checks beside connections that send nothing, or half a head.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

from bench.record import record
from tests.helpers.builders import a_gguf
from tests.helpers.service import Service, serving
from tests.service.test_faults import faulty

MIB = 1024**2
PAUSE_SECONDS = 0.005
CHAT = b"/v1/chat/completions"


def single_string(model: str = "none") -> Iterator[bytes]:
    yield from _padded(b'{"model": "%s", "stream": true, "prompt": "' % model.encode(), b'"}', 200 * MIB)


def million_values() -> Iterator[bytes]:
    yield b'{"model": "none", "a": [' + b"1," * 999_000 + b"1]}"


def half_a_million_lists() -> Iterator[bytes]:
    yield b'{"model": "none", "a": [' + b"[]," * 490_000 + b"1]}"


def deep_nesting() -> Iterator[bytes]:
    yield b'{"model": "none", "a": ' + b"[" * 490_000 + b"]" * 490_000 + b"}"


def form() -> Iterator[bytes]:
    part = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n'
    head, tail = part % b'file"; filename="a', b"\r\n" + part % b"model" + b"none\r\n--b--\r\n"
    yield from _padded(head, tail, 200 * MIB)


def _padded(head: bytes, tail: bytes, size: int) -> Iterator[bytes]:
    yield head
    piece = b"x" * MIB
    for _ in range(size // MIB):
        yield piece
    yield tail


def send(service_url: tuple[str, int], pieces: Iterable[bytes], content_type: bytes) -> int:
    """Send a request with this body; the status of its answer."""
    pieces = list(pieces)
    length = sum(map(len, pieces))
    with socket.create_connection(service_url, timeout=300) as client:
        head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # answered before it was sent completely
            client.sendall(head % (CHAT, content_type, length))
            for piece in pieces:
                client.sendall(piece)
        return int(client.recv(64).split()[1])


def _send_in_turn(
    address: tuple[str, int], body: Callable[[], Iterable[bytes]], kind: bytes, count: int, over: Event
) -> None:
    pieces = list(body())
    for _ in range(count):
        send(address, pieces, kind)
    over.set()


def read_stream(address: tuple[str, int], ready: Event, over: Event, gaps: multiprocessing.SimpleQueue) -> None:  # type: ignore[type-arg]
    """Put the list of gaps, in ms, once `over` is set."""
    body = json.dumps({"model": "m", "stream": True, "messages": []}).encode()
    seen = []
    with socket.create_connection(address, timeout=60) as client:
        client.sendall(b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (CHAT, len(body)) + body)
        client.recv(65536)
        last = time.perf_counter()
        ready.set()
        while not over.is_set() and client.recv(65536):
            now = time.perf_counter()
            seen.append((now - last) * 1000)
            last = now
    gaps.put(seen)


def gaps_beside(address: tuple[str, int], work: Callable[[Event], object]) -> dict[str, float]:
    """Gaps of a stream in ms, while `work` runs, until it sets its event."""
    context = multiprocessing.get_context("fork")
    ready, over, queue = context.Event(), context.Event(), context.SimpleQueue()
    reader = context.Process(target=read_stream, args=(address, ready, over, queue))
    reader.start()
    ready.wait(60)
    work(over)
    over.wait(600)
    gaps = sorted(queue.get())
    reader.join()
    at = {name: gaps[min(len(gaps) - 1, int(len(gaps) * share))] for name, share in SHARES.items()}
    return {"events": len(gaps), **{name: round(value, 1) for name, value in at.items()}}


SHARES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


def beside_bodies(address: tuple[str, int], seconds: float) -> dict[str, object]:
    cases: dict[str, tuple[Callable[[], Iterable[bytes]], bytes, int, int]] = {
        "a string of 200 MiB": (single_string, b"application/json", 1, 2),
        "a string of 200 MiB, forwarded": (lambda: single_string("n"), b"application/json", 1, 2),
        "a million values": (million_values, b"application/json", 1, 20),
        "half a million lists": (half_a_million_lists, b"application/json", 1, 20),
        "490,000 levels": (deep_nesting, b"application/json", 1, 20),
        "a form of 200 MiB": (form, b"multipart/form-data; boundary=b", 1, 2),
        "10 clients, 200 MiB each": (single_string, b"application/json", 10, 1),
    }
    made: dict[str, object] = {"nothing": gaps_beside(address, lambda over: (time.sleep(seconds), over.set()))}
    for name, (body, kind, clients, count) in cases.items():
        made[name] = gaps_beside(address, lambda over, c=(body, kind, clients, count): _all_at_once(address, *c, over))
        print(name, made[name], flush=True)
    return made


def _all_at_once(
    address: tuple[str, int],
    body: Callable[[], Iterable[bytes]],
    kind: bytes,
    clients: int,
    count: int,
    over: Event,
) -> None:
    """So many clients, each in a process of its own, send the body `count` times; then the event is set."""
    context = multiprocessing.get_context("fork")
    events = [context.Event() for _ in range(clients)]
    processes = [context.Process(target=_send_in_turn, args=(address, body, kind, count, each)) for each in events]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    over.set()


def health_beside(service: Service, count: int, sent: bytes) -> dict[str, object]:
    """Ten health checks beside so many connections that have sent only this."""
    with contextlib.ExitStack() as stack:
        opening = threading.Thread(target=_open, args=(service, stack, count, sent))
        opening.start()
        times = [_health_ms(service) for _ in range(10)]
        opening.join()
        times += [_health_ms(service) for _ in range(10)]
    answered = [each for each in times if each is not None]
    return {"checks": len(times), "answered_within_1_s": len(answered), "slowest_ms": round(max(answered, default=0))}


def _open(service: Service, stack: contextlib.ExitStack, count: int, sent: bytes) -> None:
    for _ in range(count):
        with contextlib.suppress(OSError):
            stack.enter_context(service.connect()).sendall(sent)


def _health_ms(service: Service) -> float | None:
    began = time.perf_counter()
    try:
        with service.connect() as client:
            client.settimeout(1.0)
            client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            ok = client.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return None
    milliseconds = (time.perf_counter() - began) * 1000
    return milliseconds if ok and milliseconds < 1000 else None


def measured(folder: Path, seconds: float) -> dict[str, object]:
    (folder / "bodies" / "models").mkdir(parents=True)
    a_gguf(folder / "bodies" / "models" / "n.gguf")  # has a server of its own, which reads the forwarded body
    (folder / "connections").mkdir()
    with faulty(folder / "bodies", FAKE_STREAM_TOKENS=10**7, FAKE_TOKEN_DELAY_SECONDS=PAUSE_SECONDS) as service:
        host, port = service.url.removeprefix("http://").split(":")
        made: dict[str, object] = {"gaps_ms_beside": beside_bodies((host, int(port)), seconds)}
    with serving(folder / "connections") as service:
        service.get("/health")  # it has started
        made["health_beside"] = {
            "1,100 idle connections": health_beside(service, 1100, b""),
            "4,000 half-sent heads": health_beside(service, 4000, b"GET / HTTP/1.1\r\nX-Half: "),
        }
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.bodies", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of the stream beside nothing (default: 5)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--record", type=Path, metavar="FILE", help="also write the results to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = measured(Path(folder), options.seconds)
    print(json.dumps(made, indent=None if options.json else 2))
    if options.record:
        record(options.record, made)


if __name__ == "__main__":
    main()
