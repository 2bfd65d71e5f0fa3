"""PeerClient: the client of one request to a peer, which also ends when its peer's requests are cut."""

from __future__ import annotations

from collections.abc import Callable

from app.ports import WatchedClient


class RunningRequests:
    """The requests that a peer is working on, and what ends each. Any thread."""

    def __init__(self) -> None:
        self._cuts: dict[PeerClient, Callable[[], None] | None] = {}  # single operations on a dict need no lock

    def __len__(self) -> int:
        return len(self._cuts)

    def note(self, client: PeerClient, cut: Callable[[], None] | None) -> None:
        self._cuts[client] = cut

    def forget(self, client: PeerClient) -> None:
        self._cuts.pop(client, None)

    def cut_all(self) -> None:
        """End the connections of all of them."""
        for cut in list(self._cuts.values()):
            if cut is not None:
                cut()


class PeerClient:
    """A WatchedClient that counts among the running requests until `on_disconnect(None)`."""

    def __init__(self, running: RunningRequests, client: WatchedClient | None = None) -> None:
        """`client`: None for a request of the service itself."""
        self._running = running
        self._client = client
        running.note(self, None)

    @property
    def is_disconnected(self) -> bool:
        return self._client is not None and self._client.is_disconnected

    def begin(self) -> None:
        if self._client is not None:
            self._client.begin()

    def on_disconnect(self, action: Callable[[], None] | None) -> None:
        if action is None:
            self._running.forget(self)
        else:
            self._running.note(self, action)
        if self._client is not None:
            self._client.on_disconnect(action)

    def close(self) -> None:
        self.on_disconnect(None)
