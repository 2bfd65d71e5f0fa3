"""Connections to peers: plain ones, and TLS whose certificates are verified."""

from __future__ import annotations

import os
import select
import socket
import ssl
from contextlib import suppress

from app.entities.peer import Peer
from app.ports import BodyFile
from workers.relay.connections import RECEIVE_BYTES, SEND_SECONDS, UpstreamConnection, prepared

CONNECT_SECONDS = 10.0  # for each address of its name, and for the handshake
PIECE_BYTES = 256 * 1024


class CannotConnect(ConnectionError):
    """There is no connection, so nothing was sent."""


class TlsConnection(UpstreamConnection):
    """Read by one thread alone: what the kernel has received is not yet what the peer has sent."""

    socket: ssl.SSLSocket

    @property
    def is_plain(self) -> bool:
        return False

    def has_input(self) -> bool:
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(self.socket.pending() or poll.poll(0))

    def send(self, data: bytes) -> None:
        self.socket.settimeout(SEND_SECONDS)
        try:
            self.socket.sendall(data)
        except TimeoutError as error:
            raise TimeoutError(f"{self.server} read nothing for {SEND_SECONDS} s") from error

    def send_file(self, body: BodyFile) -> None:
        for offset in range(0, len(body), PIECE_BYTES):
            self.send(os.pread(body.fd, min(PIECE_BYTES, len(body) - offset), offset))

    def receive(self) -> bytes:
        if not self.has_input():
            self.on_silence()
        self.socket.settimeout(self.patience_seconds)
        try:
            return self.socket.recv(RECEIVE_BYTES)
        except TimeoutError as error:
            raise TimeoutError(f"{self.server} sent nothing for {self.patience_seconds:g} s") from error

    def shut(self) -> None:
        with suppress(OSError):  # of the socket alone: another thread may be reading from the TLS session
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)


def connect(peer: Peer, tls: ssl.SSLContext | None) -> UpstreamConnection:
    """`tls`: None for a plain one. Raises CannotConnect."""
    server = f"peer {peer.name}"
    try:
        made = socket.create_connection((peer.host_name, peer.port), CONNECT_SECONDS)
        if tls is None:
            return UpstreamConnection(prepared(made), peer.port, server=server)
        return TlsConnection(_wrapped(made, peer, tls), peer.port, server=server)
    except OSError as error:
        raise CannotConnect(error.errno, _reason(error)) from error


def _wrapped(made: socket.socket, peer: Peer, tls: ssl.SSLContext) -> ssl.SSLSocket:
    try:
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return tls.wrap_socket(made, server_hostname=peer.host_name)
    except BaseException:
        made.close()
        raise


def _reason(error: OSError) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not accepted: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS fails: {error.reason or error}"
        case socket.gaierror():
            return f"its host name cannot be resolved: {error.strerror}"
        case TimeoutError():
            return f"there is no connection within {CONNECT_SECONDS:g} s"
        case _:
            return f"there is no connection: {error.strerror or error}"
