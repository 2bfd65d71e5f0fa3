"""A client that stays connected, in place of a WatchedClient."""

from __future__ import annotations


class ConnectedClient:
    is_disconnected = False

    def begin(self) -> None:
        pass

    def close(self) -> None:
        pass

    def on_disconnect(self, action: object) -> None:
        pass
