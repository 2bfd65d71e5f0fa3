"""PeerGroup: all configured peers."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

from app.entities.peer import Peer, PeerModel, PeerStatus
from app.errors import ModelNotFound
from app.ports import UpstreamRequest, WatchedClient
from app.use_cases.peers.names import PeerNames, peer_names
from workers.peers.list_watch import ListWatch
from workers.peers.peer_link import Patience, PeerLink
from workers.relay.answer import UpstreamAnswer
from workers.relay.stream_mover import StreamMover

POLL_SECONDS = 0.05


class PeerGroup:
    """Thread-safe. A reload keeps the links of peers that have not changed."""

    def __init__(
        self, peers: Sequence[Peer], patience: Patience, mover: StreamMover, list_headers: Mapping[str, str]
    ) -> None:
        """`list_headers`: of the requests for lists."""
        self.names = PeerNames()  # replaced whole
        self._patience = patience
        self._mover = mover
        self._list_headers = dict(list_headers)
        self._links: dict[str, PeerLink] = {}  # by name, in the order of the configuration; replaced whole
        self._watches: dict[str, ListWatch] = {}
        self._retired: list[PeerLink] = []  # of an earlier configuration, with requests at work
        self._is_started = False
        self._lock = threading.Lock()
        self.configure(peers, patience)

    @property
    def statuses(self) -> tuple[PeerStatus, ...]:
        now = time.monotonic()
        return tuple(link.status(now) for link in self._links.values())

    def send(self, model: PeerModel, request: UpstreamRequest, client: WatchedClient) -> UpstreamAnswer:
        if (link := self._links.get(model.peer)) is None:  # a reload has just removed it
            raise ModelNotFound(model.name)
        return link.send(request, client, self._patience, model.name)

    def start(self) -> None:
        """Begin to read the lists."""
        with self._lock:
            self._is_started = True
            for watch in self._watches.values():
                watch.start()

    def configure(self, peers: Sequence[Peer], patience: Patience) -> None:
        """Use these from now on. Requests that were sent go on."""
        with self._lock:
            self._patience = patience
            before = self._links
            self._links = {peer.name: self._kept_or_new(peer) for peer in peers}
            self._retire([link for name, link in before.items() if self._links.get(name) is not link])
            for name, link in self._links.items():
                if link.peer.models is None and name not in self._watches:
                    self._watches[name] = self._new_watch(link)
        self._index()

    def wait_idle(self, timeout: float) -> bool:
        """Wait until no request is at work any more; False if `timeout` seconds were not enough."""
        deadline = time.monotonic() + timeout
        while any(len(link.running) for link in (*self._links.values(), *self._retired)):
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def close(self) -> None:
        """Cut what is at work, and read no list any more."""
        with self._lock:
            for watch in self._watches.values():
                watch.close()
            for link in (*self._links.values(), *self._retired):
                link.close()

    def _kept_or_new(self, peer: Peer) -> PeerLink:
        link = self._links.get(peer.name)
        return link if link is not None and link.peer == peer else PeerLink(peer, self._mover)

    def _retire(self, links: Sequence[PeerLink]) -> None:
        for link in links:
            if watch := self._watches.pop(link.peer.name, None):
                watch.close()
            link.connections.close()
        self._retired = [link for link in (*self._retired, *links) if len(link.running)]

    def _new_watch(self, link: PeerLink) -> ListWatch:
        request = UpstreamRequest("GET", f"{link.peer.path}/models", self._list_headers, b"")
        watch = ListWatch(link, request, self._index)
        if self._is_started:
            watch.start()
        return watch

    def _index(self) -> None:
        """After a change of the models, by any thread."""
        with self._lock:
            links = self._links.values()
            self.names = peer_names(model for link in links for model in link.models or ())
