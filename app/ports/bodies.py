"""Ports of request bodies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from app.request_body.buffer import Buffer
from app.request_body.content import BodyContent, BodyFormat

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BodyFile:
    """A large body in a file of memory, whose bytes are moved without Python's lock."""

    fd: int
    size_bytes: int

    def __len__(self) -> int:
        return self.size_bytes


class RequestBody(Protocol):
    """The body of one request (workers.request_bodies.held_body.HeldBody)."""

    @property
    def data(self) -> bytes | BodyFile: ...
    def __len__(self) -> int: ...

    def content(self, form: BodyFormat) -> BodyContent:
        """What it says. Raises InvalidRequest."""

    def read(self, reading: Callable[[Buffer], T]) -> T:
        """What `reading` finds in it. `reading` can be pickled: a large body is read in another process. Raises what it
        raises, a ProxyError."""

    def rewrite(self, rewriting: Callable[[Buffer], tuple[bytes, T]]) -> T:
        """Replace it by the bytes that `rewriting` makes of it; returns what `rewriting` says about them.

        `rewriting` can be pickled: a large body is rewritten in another process. Raises what it raises, a ProxyError,
        and Overloaded if the new body does not fit into the budget.
        """

    def hash(self, *labels: str) -> str:
        """A cryptographic hash of these labels and the body."""

    def close(self) -> None:
        """Give its memory back. More than once does no harm."""


class Bodies(Protocol):
    """Receives bodies within `server.max_body` and `server.max_bodies` (workers.request_bodies.held_body)."""

    def receive(
        self, read: Callable[[int], bytes], announced_bytes: int, client: str, codings: tuple[str, ...] = ()
    ) -> RequestBody:
        """The body, read to its end and decoded. `client`: whose share it takes. Raises RequestTooLarge, Overloaded
        and, for `codings` that it does not have, InvalidRequest; close it otherwise."""

    def close(self) -> None:
        """End the process that reads large bodies."""
