"""Peers at work against a scripted one: what is sent, and what comes of answers that are none."""

from __future__ import annotations

import contextlib
import shutil
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.entities.peer import BreakerState, Peer, PeerModel, PeerStatus
from app.errors import BadUpstream, ClientDisconnected, Draining, PeerUnavailable, ProxyError, UpstreamTimeout
from app.ports import BodyFile, UpstreamRequest
from app.use_cases.peers import breaker as breaker_module
from app.use_cases.peers import listing as listing_module
from tests.helpers.scripted_peer import (
    Behavior,
    Handler,
    ScriptedPeer,
    answers,
    cuts_a_stream,
    event,
    hangs,
    never_ends,
    sends,
)
from tests.helpers.service import wait_for
from tests.relay.test_relay import OPEN, Client, no_wsgi
from workers.clients.client_watch import ClientWatch
from workers.peers import list_watch
from workers.peers.peer_group import PeerGroup
from workers.peers.peer_link import Patience
from workers.relay.stream_mover import StreamMover

pytestmark = pytest.mark.integration

SECONDS = 20.0
M = PeerModel("box", "m")
REQUEST = UpstreamRequest("POST", "/chat/completions", {"X-A": "b"}, b'{"stream": true}')
QUICK, SLOW = Patience(0.5, 0.5), Patience(SECONDS, SECONDS)


@pytest.fixture(scope="module")
def mover() -> StreamMover:
    made = StreamMover(stall_seconds=1.5, send_seconds=1.5)
    made.start()
    return made


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    OPEN.close()


@contextlib.contextmanager
def a_group(mover: StreamMover, *peers: Peer, patience: Patience = SLOW) -> Iterator[PeerGroup]:
    group = PeerGroup(peers, patience, mover, {"X-List": "1"})
    group.start()
    try:
        yield group
    finally:
        group.close()


def at(peer: ScriptedPeer, name: str = "box", models: tuple[str, ...] | None = ("m",), **more: Any) -> Peer:
    return Peer(name, "127.0.0.1", peer.port, models=models, **more)


def status(group: PeerGroup) -> PeerStatus:
    return group.statuses[0]


def body_of(answer: Any, way: str = "pieces") -> tuple[bytes, bool]:
    """The body, and whether it was whole; by the client's socket or in pieces."""
    with contextlib.closing(answer):
        if way == "pieces":
            pieces: list[bytes] = []
            whole = answer.copy_body(pieces.append, None)
            return b"".join(pieces), whole
        client = Client()
        whole = answer.copy_body(no_wsgi, client)
        return client.all(), whole


def error_of(send: Callable[[], object]) -> ProxyError:
    with pytest.raises(ProxyError) as caught:
        send()
    return caught.value


def disconnect_after(watch: ClientWatch, is_due: Callable[[], bool]) -> None:
    """The client leaves as soon as that is so."""

    def disconnect() -> None:
        wait_for(is_due, SECONDS)
        watch.mark_disconnected()

    threading.Thread(target=disconnect, daemon=True).start()


def ask(group: PeerGroup, watch: ClientWatch | None = None) -> Any:
    return group.send(M, REQUEST, watch or ClientWatch(None, -1))


@pytest.mark.parametrize("way", ["socket", "pieces"])
def test_a_request_goes_to_the_peer_with_its_own_key(
    mover: StreamMover, way: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
):
    monkeypatch.setenv("BOX_KEY", " secret\n")
    (tmp_path / "key").write_text("of the file\n".replace(" ", "-"))
    with ScriptedPeer() as box:
        for more, key in (
            ({"key_variable": "BOX_KEY"}, "Bearer secret"),
            ({"key_file": str(tmp_path / "key")}, "Bearer of-the-file"),
            ({}, None),
        ):
            with a_group(mover, at(box, path="/api/v1", **more)) as group:
                body, whole = body_of(ask(group), way)
                assert whole and body.startswith(event(0)) and body.endswith(b"data: [DONE]\n\n")
                assert status(group) == PeerStatus("box", (M,))
            sent = box.received[-1]
            assert (sent.path, sent.body) == ("/api/v1/chat/completions", REQUEST.body)
            assert sent.headers.get("authorization") == key
            assert (sent.headers["host"], sent.headers["x-a"]) == (f"127.0.0.1:{box.port}", "b")


@pytest.mark.parametrize(
    ("content", "problem"), [(None, "cannot be read: No such file"), ("", "is empty"), ("a b", "is no key")]
)
def test_without_its_key_nothing_is_sent(mover: StreamMover, tmp_path: Any, content: str | None, problem: str):
    if content is not None:
        (tmp_path / "key").write_text(content)
    with ScriptedPeer() as box, a_group(mover, at(box, key_file=str(tmp_path / "key"))) as group:
        for _ in range(3):  # its breaker stays closed: the peer has done nothing wrong
            assert problem in str(error_of(lambda: ask(group)))
        assert (box.received, status(group).breaker) == ([], BreakerState.CLOSED)
        assert problem in status(group).problem
        (tmp_path / "key").write_text("k")
        assert body_of(ask(group))[1]
        assert status(group).problem == ""


@pytest.mark.parametrize(
    ("behavior", "error", "text"),
    [
        (sends(b"SSH-2.0-x\r\n\r\n"), BadUpstream, "peer box: its answer is not valid HTTP"),
        (sends(b""), BadUpstream, "peer box: it closed the connection without an answer"),
        (sends(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), BadUpstream, "in mid-answer"),
        (answers(401), BadUpstream, "it does not accept its key (status 401)"),
        (hangs, UpstreamTimeout, "peer box sent nothing for 0.5 s"),
    ],
    ids=["garbage", "end", "cut", "401", "hangs"],
)
def test_what_is_no_answer_is_an_error_that_names_the_peer(
    mover: StreamMover, behavior: Behavior, error: type[ProxyError], text: str
):
    with ScriptedPeer(behavior=behavior) as box, a_group(mover, at(box), patience=QUICK) as group:
        problem = error_of(lambda: ask(group))
        assert (type(problem), text in str(problem)) == (error, True), problem
        assert len(box.received) == 1, "it may be running: it is never sent twice"
        assert (status(group).failures, status(group).requests) == (1, 0)


@pytest.mark.parametrize("code", [400, 403, 429, 500, 503])
def test_an_error_of_the_peer_is_passed_on(mover: StreamMover, code: int):
    behavior = answers(code, Retry_After="7", WWW_Authenticate="x")
    with ScriptedPeer(behavior=behavior) as box, a_group(mover, at(box)) as group:
        with contextlib.closing(ask(group)) as answer:
            assert (answer.status, dict(answer.headers)["Retry-After"]) == (code, "7")
            assert "WWW-Authenticate" not in dict(answer.headers)
        assert status(group).failures == 0


@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(mover: StreamMover, code: int):
    """Its key and the prompt would go to whatever address it names."""
    with ScriptedPeer() as other, ScriptedPeer() as box, a_group(mover, at(box)) as group:
        box.behavior = answers(code, Location=f"{other.url}/v1/chat/completions")
        assert "redirects" in str(error_of(lambda: ask(group)))
        assert other.received == []


@pytest.mark.parametrize("way", ["socket", "pieces"])
def test_a_stream_that_is_cut_ends_with_an_error(mover: StreamMover, way: str):
    with ScriptedPeer(behavior=cuts_a_stream) as box, a_group(mover, at(box)) as group:
        answer = ask(group)
        body, whole = body_of(answer, way)
        assert not whole and body.startswith(event(0) + event(1))
        assert b"bad_upstream" in body and b"peer box: it closed the connection in mid-answer" in body
        assert b"[DONE]" not in body
        assert (answer.failure.status, status(group).failures) == (502, 1)


def test_a_peer_that_disappears_is_left_alone_and_comes_back(mover: StreamMover, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(breaker_module, "FIRST_PAUSE_SECONDS", 60.0)
    with ScriptedPeer() as box, a_group(mover, at(box)) as group:
        assert body_of(ask(group))[1]
        box.stop()
        first, second = (error_of(lambda: ask(group)) for _ in range(2))
        assert (type(first), first.retry_after) == (PeerUnavailable, 2)
        assert "Connection refused" in str(first) and second.retry_after == 60
        assert status(group).breaker is BreakerState.OPEN
        box.start()
        refused = error_of(lambda: ask(group))
        assert "peer box does not answer" in str(refused) and len(box.posts) == 1
        monkeypatch.setattr(time, "monotonic", lambda real=time.monotonic: real() + 60)
        assert status(group).breaker is BreakerState.HALF_OPEN
        assert body_of(ask(group))[1]
        assert (status(group).breaker, status(group).problem) == (BreakerState.CLOSED, "")


def test_a_client_that_disconnects_is_not_the_peers_failure(mover: StreamMover):
    with ScriptedPeer(behavior=hangs) as box, a_group(mover, at(box)) as group:
        watch = ClientWatch(None, -1)

        disconnect_after(watch, lambda: len(box.received) == 1)
        began_at = time.monotonic()
        assert isinstance(error_of(lambda: ask(group, watch)), ClientDisconnected)
        assert time.monotonic() - began_at < SECONDS / 2, "nobody waited for the peer's patience"
        assert (status(group).failures, status(group).requests) == (0, 0)


def test_the_end_of_the_service_cuts_what_is_at_work(mover: StreamMover):
    with ScriptedPeer(behavior=never_ends) as box, a_group(mover, at(box)) as group:
        answer = ask(group)
        assert not group.wait_idle(0.0) and status(group).requests == 1
        pieces: list[bytes] = []

        def write(piece: bytes) -> None:
            pieces.append(piece)
            group.close()

        assert not answer.copy_body(write, None)
        assert b"draining" in pieces[-1]
        answer.close()
        assert group.wait_idle(0.0)
        assert isinstance(error_of(lambda: ask(group)), Draining)


# --- TLS ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For 127.0.0.1, signed by itself, with its key."""
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=box"]
    files = ["-keyout", folder / "key", "-out", folder / "certificate"]
    subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1", *files], check=True, capture_output=True)
    return Path(folder / "certificate")


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key"))
    return context


with_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")


@with_openssl
def test_a_certificate_that_nobody_vouches_for_is_not_accepted(mover: StreamMover, tls: ssl.SSLContext):
    with ScriptedPeer(tls=tls) as box, a_group(mover, at(box, is_tls=True, key_variable="PATH")) as group:
        assert "its certificate is not accepted: self" in str(error_of(lambda: ask(group)))
        assert box.received == []


@with_openssl
@pytest.mark.parametrize("way", ["socket", "pieces"])
def test_over_tls_a_stream_and_a_large_body_arrive_whole(
    mover: StreamMover, tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch, way: str
):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with ScriptedPeer(tls=tls) as box, a_group(mover, at(box, is_tls=True)) as group:
        for _ in range(2):
            body, whole = body_of(ask(group), way)
            assert whole and body.startswith(event(0)) and body.endswith(b"data: [DONE]\n\n")
        with tempfile.TemporaryFile() as file:
            file.write(large := b'{"a": "' + b"x" * 1_000_000 + b'"}')
            file.flush()
            request = UpstreamRequest("POST", "/chat/completions", {}, BodyFile(file.fileno(), len(large)))
            for _ in range(2):  # the second one on the connection of the first
                assert b"hello" in body_of(group.send(M, request, ClientWatch(None, -1)), way)[0]
        assert box.received[-1].body == large


@with_openssl
def test_over_tls_a_silent_peer_and_a_client_that_left_end_the_wait(
    mover: StreamMover, tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with ScriptedPeer(tls=tls, behavior=hangs) as box, a_group(mover, at(box, is_tls=True), patience=QUICK) as group:
        assert "peer box sent nothing for 0.5 s" in str(error_of(lambda: ask(group)))
        group.configure([at(box, is_tls=True)], SLOW)
        watch = ClientWatch(None, -1)
        disconnect_after(watch, lambda: len(box.received) == 2)
        began_at = time.monotonic()
        assert isinstance(error_of(lambda: ask(group, watch)), ClientDisconnected)
        assert time.monotonic() - began_at < SECONDS / 2, "nobody waited for the peer's patience"


# --- lists -------------------------------------------------------------------------------------------------------


def names(group: PeerGroup) -> list[str]:
    return [model.name for each in group.statuses for model in each.models]


def test_the_models_of_a_peer_are_those_that_it_lists(mover: StreamMover, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(listing_module, "LIST_SECONDS", 0.02)
    with ScriptedPeer(models=["a", "b"]) as box, a_group(mover, at(box, models=None)) as group:
        wait_for(lambda: names(group) == ["box/a", "box/b"], SECONDS)
        assert box.received[0].path == "/v1/models" and box.received[0].headers["x-list"] == "1"
        assert group.names.named("b") == (PeerModel("box", "b", 7),)
        box.models = ["c"]
        wait_for(lambda: names(group) == ["box/c"], SECONDS)
        assert group.names.named("b") == ()


@pytest.mark.parametrize(
    ("listing", "problem", "breaker"),
    [
        (answers(500), "GET /v1/models is answered with status 500", BreakerState.CLOSED),
        (answers(401), "it does not accept its key", BreakerState.CLOSED),
        (answers(302, Location="http://localhost:1/"), "it redirects to another address", BreakerState.CLOSED),
        (sends(b"HTTP/1.1 200 OK\r\n\r\n<html>"), "its list of models is not JSON", BreakerState.CLOSED),
        (sends(b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 5_000_000), "is longer than 4 MiB", BreakerState.CLOSED),
        (sends(b"220 smtp\r\n\r\n"), "its answer is not valid HTTP", BreakerState.OPEN),
        (hangs, "sent nothing for 0.2 s", BreakerState.OPEN),
    ],
    ids=["500", "401", "redirect", "html", "endless", "garbage", "hangs"],
)
def test_a_list_that_cannot_be_read_leaves_the_models_as_they_were(
    mover: StreamMover, monkeypatch: pytest.MonkeyPatch, listing: Behavior, problem: str, breaker: BreakerState
):
    monkeypatch.setattr(listing_module, "LIST_SECONDS", 0.02)
    monkeypatch.setattr(listing_module, "FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(list_watch, "PATIENCE", Patience(0.2, 0.2))
    with ScriptedPeer() as box, a_group(mover, at(box, models=None)) as group:
        wait_for(lambda: names(group) == ["box/m"], SECONDS)
        box.listing = listing
        wait_for(lambda: problem in status(group).problem and status(group).breaker is breaker, SECONDS)
        assert names(group) == ["box/m"]
        box.listing = None
        wait_for(lambda: status(group).problem == "" and status(group).breaker is BreakerState.CLOSED, SECONDS)


def test_a_list_that_arrives_byte_by_byte_ends(mover: StreamMover, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(list_watch, "LIST_SECONDS", 0.1)

    def drips(handler: Handler) -> None:
        handler.send_events(iter(()))
        while not handler.peer.released.wait(0.01):
            handler.chunk(b" ")

    with ScriptedPeer(listing=drips) as box, a_group(mover, at(box, models=None)) as group:
        wait_for(lambda: "has not arrived within 0.1 s" in status(group).problem, SECONDS)
        assert not status(group).is_listed


def test_a_reload_keeps_what_has_not_changed(mover: StreamMover):
    with ScriptedPeer(behavior=never_ends) as box, a_group(mover, at(box), at(box, "other")) as group:
        answer = ask(group)
        group.configure([at(box, "new"), at(box)], QUICK)
        assert [each.name for each in group.statuses] == ["new", "box"]
        assert group.statuses[1].requests == 1
        group.configure([], QUICK)
        assert not group.wait_idle(0.0), "its request goes on"
        assert group.names.named("m") == ()
        group.close()
        answer.close()
        assert group.wait_idle(0.0)
