"""A stream of events that stays open for hours: what it holds, and when it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from app.ports import Admission
from app.routes.incoming_request import IncomingRequest

POLL_SECONDS = 0.1
SIGN_OF_LIFE_SECONDS = 15.0  # so that proxies in between do not take the stream for dead
SIGN_OF_LIFE = b": still here\n\n"


class OpenStream:
    """Occupies a thread for hours, so it takes a place in `limit` and counts as an inference request."""

    def __init__(self, request: IncomingRequest, limit: Admission) -> None:
        """Raises Overloaded."""
        self._request = request
        self._limit = limit
        limit.acquire()
        try:
            request.services.admission.acquire()
        except BaseException:
            limit.release()
            raise
        self.client = request.watch_client()
        self.client.begin()

    @property
    def is_over(self) -> bool:
        """At a shutdown, when the client has disconnected, and at a reload, which may have changed what its key may
        see."""
        services = self._request.services
        is_reloaded = services.settings is not self._request.settings
        return self.client.is_disconnected or services.store.pool.draining or is_reloaded

    def chunks(self, first: bytes, news: Callable[[], bytes], sign_of_life: bytes = SIGN_OF_LIFE) -> Iterator[bytes]:
        """`first`, then what `news` returns, which is b"" where nothing has happened, until the stream is over.

        It polls: every request for a loaded model changes the state, and would have to wake each stream.
        """
        yield first
        written_at = time.monotonic()
        while not self.is_over:
            time.sleep(POLL_SECONDS)
            chunk = news()
            if not chunk and time.monotonic() - written_at >= SIGN_OF_LIFE_SECONDS:
                chunk = sign_of_life
            if chunk:
                yield chunk
                written_at = time.monotonic()

    def close(self) -> None:
        """Give back what it holds."""
        self.client.close()
        self._request.services.admission.release()
        self._limit.release()
