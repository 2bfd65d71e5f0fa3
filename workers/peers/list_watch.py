"""ListWatch: the thread that reads which models a peer has, once a minute."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from app.entities.peer import PeerModel
from app.ports import UpstreamRequest
from app.use_cases.peers.listing import InvalidList, list_pause_seconds, read_list
from workers.peers.failures import RejectedAnswer, not_the_peers, problem_of
from workers.peers.peer_client import PeerClient, RunningRequests
from workers.peers.peer_link import FAILURES, Patience, PeerLink

log = logging.getLogger(__name__)

PATIENCE = Patience(10.0, 10.0)
LIST_SECONDS = 20.0  # for a whole list: one may arrive byte by byte
MAX_LIST_BYTES = 4 * 1024 * 1024


class ListWatch:
    """The thread, named after its peer. `changed` is called by it after the peer's models have changed."""

    def __init__(self, link: PeerLink, request: UpstreamRequest, changed: Callable[[], None]) -> None:
        self._link = link
        self._request = request
        self._changed = changed
        self._failures = 0  # in a row; the thread's own
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"peer-{link.peer.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Read nothing any more. Does not wait for a reading on its way."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._read()
            self._closed.wait(list_pause_seconds(self._failures))

    def _read(self) -> None:
        link, client, began_at = self._link, PeerClient(RunningRequests()), time.monotonic()
        problem = ""
        try:
            self._publish(read_peer_models(link, self._request, client))
        except (InvalidList, RejectedAnswer) as error:
            problem = problem_of(error)
        except FAILURES as error:
            problem = problem_of(error)
            if not not_the_peers(error, client) and not self._closed.is_set():
                link.note_failure(problem, began_at)
        except Exception:  # a bug: the next reading may succeed
            log.exception("reading the models of peer %s failed", link.peer.name)
            problem = "its list could not be read; the log of this service says more"
        finally:
            client.close()
        self._failures = self._failures + 1 if problem else 0
        if problem != link.list_problem and not self._closed.is_set():
            link.list_problem = problem
            if problem:
                log.warning("peer not listed name=%s problem=%r", link.peer.name, problem)

    def _publish(self, models: tuple[PeerModel, ...]) -> None:
        before = self._link.models
        self._link.note_answer()
        if models != before and not self._closed.is_set():
            self._link.models = models
            log.info("peer listed name=%s models=%d", self._link.peer.name, len(models))
            self._changed()


def read_peer_models(link: PeerLink, request: UpstreamRequest, client: PeerClient) -> tuple[PeerModel, ...]:
    """What the peer lists now. Raises InvalidList, or one of FAILURES."""
    deadline = time.monotonic() + LIST_SECONDS
    reply = link.reply_to(request, client, PATIENCE)
    try:
        if reply.status != 200:
            raise InvalidList(f"GET {request.target} is answered with status {reply.status}")
        body = bytearray(reply.first)
        while not reply.body.is_over:
            body += reply.payload(reply.connection.receive())
            if len(body) > MAX_LIST_BYTES:
                raise InvalidList(f"its list of models is longer than {MAX_LIST_BYTES >> 20} MiB")
            if time.monotonic() > deadline:
                raise TimeoutError(f"its list of models has not arrived within {LIST_SECONDS:g} s")
        return read_list(link.peer.name, bytes(body))
    finally:
        reply.connection.close()
