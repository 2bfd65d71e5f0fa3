"""Faults of engines: those of real ones by signals, others by the scripted engine."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import threading
import time
from pathlib import Path

import psutil

from bench.soak.faults import LONG, Together, fault, pause
from bench.soak.target import SCRIPTED, Target
from tests.helpers.service import has_exited

# What a client may also get while other faults are on: none of them is the scripted engine's.
ALWAYS = ("overloaded", "wait_timeout", "queue_full", "model_unloaded", "insufficient_vram", "spawn_failed", "no_gpu")
FAILED = ("model_load_failed", "load_timeout")
REPLACED_SECONDS = 25.0


@fault
def engine_killed(target: Target, chance: random.Random) -> None:
    if found := target.an_engine(chance):
        model, engine = found
        with Together(target) as asked:
            asked.chat(model, **LONG)
            asked.chat(model, max_tokens=500, ignore_eos=True)
            pause(chance.uniform(0.05, 0.5))
            with contextlib.suppress(psutil.Error):
                engine.kill()
        target.ask(model)


@fault
def engine_hangs(target: Target, chance: random.Random) -> None:
    """Stopped with requests in it. If it is not replaced in time, that is a failure, and it may continue."""
    if not (found := target.an_engine(chance)):
        return
    model, engine = found
    try:
        with Together(target) as asked, contextlib.suppress(psutil.Error):
            engine.suspend()
            asked.chat(model, **LONG)
            for _ in range(3):
                asked.chat(model)
            until = time.monotonic() + REPLACED_SECONDS
            while time.monotonic() < until and not has_exited(engine):
                pause(0.5)
        if not has_exited(engine):
            target.account.fail(f"the engine of {model} hung for {REPLACED_SECONDS:g} s and was not replaced")
    finally:
        with contextlib.suppress(psutil.Error):
            engine.resume()
    target.ask(model)


@fault
def engine_ends_while_loading(target: Target, chance: random.Random) -> None:
    with target.scripted(FAKE_LOAD=chance.choice(("exit1", "segv"))), Together(target) as asked:
        for _ in range(4):
            asked.do(lambda: target.expect(target.client.chat(SCRIPTED), *FAILED, *ALWAYS))


@fault
def out_of_memory_while_loading(target: Target, chance: random.Random) -> None:
    with target.scripted(FAKE_LOAD="oom"):
        target.expect(target.client.chat(SCRIPTED), *FAILED, *ALWAYS)


@fault
def out_of_memory_once(target: Target, chance: random.Random) -> None:
    with target.scripted(FAKE_OOM_ONCE=str(target.folder / f"oom-{chance.random()}")):
        target.ask(SCRIPTED)


@fault
def out_of_memory_while_answering(target: Target, chance: random.Random) -> None:
    with target.scripted(FAKE_DIE_AFTER_TOKENS=chance.randrange(5)), Together(target) as asked:
        asked.chat(SCRIPTED, stream=True)
        asked.chat(SCRIPTED, stream=chance.random() < 0.5)


@fault
def load_hangs(target: Target, chance: random.Random) -> None:
    with target.scripted(**chance.choice(({"FAKE_LOAD": "hang"}, {"FAKE_NO_BIND": 1}))), Together(target) as asked:
        asked.chat(SCRIPTED)
        asked.chat(SCRIPTED, stream=True)


@fault
def engine_ignores_sigterm(target: Target, chance: random.Random) -> None:
    with target.scripted(FAKE_IGNORE_TERM=1):
        target.ask(SCRIPTED)
        target.unload(SCRIPTED)


@fault
def engine_leaves_a_child(target: Target, chance: random.Random) -> None:
    """Its child holds its pipes open; the engine is killed."""
    with target.scripted(FAKE_FORK_GRANDCHILD=1):
        target.ask(SCRIPTED)
        for server in target.servers():
            if server["model_id"] == SCRIPTED and server["process"]:
                with contextlib.suppress(psutil.Error):
                    psutil.Process(server["process"]).send_signal(signal.SIGKILL)
        target.ask(SCRIPTED)


@fault
def engine_floods_its_log(target: Target, chance: random.Random) -> None:
    with target.scripted(FAKE_STDERR_MB=chance.choice((5, 20))):
        target.ask(SCRIPTED)


@fault
def engine_answers_garbage(target: Target, chance: random.Random) -> None:
    kind = chance.choice(("FAKE_GARBAGE", "FAKE_BAD_HEADER_NAME"))
    with target.scripted(**{kind: 1}):
        target.expect(target.client.chat(SCRIPTED), "bad_upstream", *ALWAYS)


@fault
def engine_answers_an_error(target: Target, chance: random.Random) -> None:
    status = chance.choice((400, 429, 500, 503))
    with target.scripted(FAKE_STATUS=status):
        target.expect(target.client.chat(SCRIPTED), f"engine {status}", *ALWAYS)


@fault
def engine_cuts_its_answer(target: Target, chance: random.Random) -> None:
    with target.scripted(**{chance.choice(("FAKE_TRUNCATE", "FAKE_CUT_EVENT")): 1}):
        target.ask(SCRIPTED, stream=True)
        target.ask(SCRIPTED)


@fault
def engine_is_late(target: Target, chance: random.Random) -> None:
    with target.scripted(FAKE_FIRST_BYTE_SECONDS=chance.choice((3, 30))), Together(target) as asked:
        asked.chat(SCRIPTED)
        asked.chat(SCRIPTED, stream=True)


@fault
def engine_ignores_a_disconnect(target: Target, chance: random.Random) -> None:
    with target.scripted(FAKE_DEAF=1, FAKE_TOKEN_DELAY_SECONDS=2):
        with contextlib.suppress(OSError), target.client.begin({"model": SCRIPTED, "messages": [], "stream": True}):
            target.account.add_left(SCRIPTED)
            pause(chance.uniform(0.2, 1.5))
        pause(5)


@fault
def engine_takes_memory(target: Target, chance: random.Random) -> None:
    """Far more than was booked for it, for one request; another is in it at the same time."""
    body = {"model": SCRIPTED, "prompt": "grow", "max_tokens": 1}
    with target.scripted(FAKE_GROW_MB=600, FAKE_STREAM_TOKENS=300), Together(target) as asked:
        asked.chat(SCRIPTED, stream=True)
        pause(chance.uniform(0, 1))
        target.account.add(target.client.post("/v1/completions", body))


@fault
def port_stolen(target: Target, chance: random.Random) -> None:
    """Somebody listens on the port before the engine does, and answers whatever is asked."""
    announced = target.folder / "announced-port"
    announced.unlink(missing_ok=True)
    with target.scripted(FAKE_PORT_ZERO=0, FAKE_BINDS_AFTER=str(announced)), Thief(target, announced):
        target.ask(SCRIPTED)


class Thief:
    """Takes the first port that the scripted engine announces, and lets it bind then."""

    def __init__(self, target: Target, announced: Path) -> None:
        self._target, self._announced = target, announced
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._steal)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _steal(self) -> None:
        while not (self._announced.exists() and (port := self._announced.read_text())):
            if self._over.wait(0.01):
                return
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", int(port)))
            listener.listen()
            listener.settimeout(0.1)
            Path(f"{self._announced}.taken").touch()
            while not self._over.is_set():
                with contextlib.suppress(TimeoutError), listener.accept()[0] as connection:
                    self._answer(connection)
        Path(f"{self._announced}.taken").unlink()

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(1)
        with contextlib.suppress(OSError):
            if connection.recv(65536).startswith(b"POST"):
                self._target.account.fail("a request was sent to a port that is not the engine's")
            body = b'{"status": "ok"}'
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
