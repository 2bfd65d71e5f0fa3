"""Ports of the request to a server and its answer."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from app.entities.token_usage import TokenUsage
from app.errors import ErrorForm, ProxyError
from app.ports.bodies import BodyFile
from app.ports.clients import WatchedClient
from app.ports.servers import Address


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """What a llama-server is sent."""

    method: str
    target: str  # path and query, percent-encoded
    headers: Mapping[str, str]  # those of the client that may go on; Host and Authorization are the relay's
    body: bytes | BodyFile
    error_form: ErrorForm = ErrorForm.OPENAI  # of the event that ends a stream which is cut


class ClientSocket(Protocol):
    """A client's socket that the worker lends for one answer (workers.gunicorn_worker.client_socket.DirectAnswer)."""

    @property
    def socket(self) -> socket.socket: ...

    def takes(self, length: int | None) -> bool:
        """Whether the head announces this length; None: whether it announces chunks."""

    def head(self) -> bytes:
        """The head of the answer; empty once it was sent."""

    def mark_sent(self) -> None:
        """The whole body was sent on the socket: the connection may carry another request."""


class EngineAnswer(Protocol):
    """An answer whose head has arrived (workers.relay.answer.UpstreamAnswer)."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> list[tuple[str, str]]:
        """Those that go on to the client."""

    @property
    def is_stream(self) -> bool: ...

    @property
    def failure(self) -> ProxyError | None:
        """Why its body was cut, once it was."""

    def copy_body(self, write: Callable[[bytes], object], client_socket: ClientSocket | None) -> bool:
        """Send the body; False if it was cut and the client was told. Raises ConnectionResetError otherwise."""

    def usage(self) -> TokenUsage:
        """The tokens that the body has reported so far."""

    def estimated_tokens(self) -> int:
        """How many tokens of text the body has so far, by its events or its size."""

    def close(self) -> None:
        """Give back its connection, whether or not the body was read."""


class RequestRelay(Protocol):
    """The data path to the servers (workers.relay.relay.Relay)."""

    def send(self, address: Address, request: UpstreamRequest, client: WatchedClient) -> EngineAnswer:
        """Send a request and wait for the head of its answer. Raises the ProxyError that says why there is none."""
