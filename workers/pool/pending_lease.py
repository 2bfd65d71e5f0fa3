"""PendingLease: a request's wait for a slot, and then its slot."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future

from app.entities.refusal import Refusal
from app.errors import error_for
from app.ports import Address, Lease, WatchedClient
from app.use_cases.scheduling import events as ev

Answer = Future[int | Refusal | None]  # the scheduler's: a server's id for an Acquire, None for a Load or an Unload


def outcome_of(answer: Answer, client: WatchedClient, seconds: float | None = None) -> int | None:
    """The scheduler's answer, once it is there. Raises the ProxyError of a refusal, TimeoutError after `seconds`."""
    outcome = answer.result(seconds)
    client.on_disconnect(None)
    if isinstance(outcome, Refusal):
        raise error_for(outcome)
    return outcome


class PendingLease:
    """`post` gives the scheduler an event; `address_of` says where the server of an id and a model answers."""

    def __init__(
        self,
        command: ev.Acquire,
        answer: Answer,
        client: WatchedClient,
        post: Callable[[ev.Event], None],
        address_of: Callable[[int, str], Address],
    ) -> None:
        self._command = command
        self._answer = answer
        self._client = client
        self._post = post
        self._address_of = address_of

    def wait(self, seconds: float | None = None) -> Lease | None:
        """The slot; None if there was none within `seconds`. Raises the ProxyError of a rejected request;
        ClientDisconnected as soon as the client disconnects."""
        try:
            server_id = outcome_of(self._answer, self._client, seconds)
        except TimeoutError:
            return None
        assert server_id is not None, "an Acquire is answered with a server"
        address = self._address_of(server_id, self._command.model.name)
        return Lease(address, time.monotonic() - self._command.at)

    def end(self, ending: ev.Ending, keep_alive_seconds: float | None = None) -> None:
        """Cancel the wait or release the slot, once. `ending`: how much of its answer the request got;
        `keep_alive_seconds`: idle time before the model is unloaded, None for that of its settings."""
        if not self._answer.done():
            self._post(ev.Cancel(self._command.ticket, time.monotonic()))
        if isinstance(self._answer.result(), int):
            self._post(ev.Release(self._command.ticket, time.monotonic(), ending, keep_alive_seconds))
