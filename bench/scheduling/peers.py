"""Policies of other projects, each as a small simulator on the same machine, models and requests.

All use the placement of ours: the fullest card with enough free memory, else the fewest cards that hold the model. None
overcommits memory, and each waits until memory has been released.

Where an implementation falls short of its policy, the policy is simulated. All peers know immediately what is free and
what has exited; really they poll (ollama at fb307609 every 250 ms, llama-swap at 0bdb3720 every second). ollama fills a
card up to 80 % of its free memory, else uses all cards, and evicts idle models by keep-alive, then by name; here the
least recently used one is evicted. llama.cpp's router (b11434) ignores memory, and llama-swap rejects more than ten
requests for a model. In the router's disfavour: it really does not wait for memory to be released, which costs 0.7 s
per swap here, though without it a load may run out of memory.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from bench.scheduling.arrivals import Request
from bench.scheduling.machines import RETURN_SECONDS, SLOTS, STOP_SECONDS, Machine, Subject
from bench.scheduling.results import Result


@dataclass(eq=False)
class Running:
    """A server, from its start until its memory is released."""

    subject: Subject
    on: dict[str, int]
    started_at: float
    last_used: float
    is_ready: bool = False
    is_stopping: bool = False
    busy: int = 0

    @property
    def is_idle(self) -> bool:
        return self.is_ready and not self.busy and not self.is_stopping

    @property
    def has_free_slot(self) -> bool:
        return self.is_ready and self.busy < SLOTS and not self.is_stopping


@dataclass
class Peer:
    """The simulated machine; `settle` is the policy."""

    machine: Machine
    requests: tuple[Request, ...]
    result: Result = field(default_factory=Result)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.waiting: dict[Subject, deque[Request]] = {}  # by model; no empty queues
        self.servers: list[Running] = []
        self.free = dict(self.machine.usable)
        self.arrived = -1  # number of the latest arrival
        self._agenda: list[tuple[float, int, str, object]] = []
        self._order = 0

    def run(self) -> Result:
        for request in self.requests:
            self._later(request.at, "arrive", request)
        while self._agenda:
            self.now, _, what, about = heapq.heappop(self._agenda)
            getattr(self, f"_{what}")(about)
            self.settle()
        assert not self.waiting, "every request is served"
        return self.result

    def settle(self) -> None:
        raise NotImplementedError

    # --- orders ------------------------------------------------------------------------------------------------------

    def grant_all(self) -> None:
        """Grant free slots to waiting requests, oldest first."""
        for server in self.servers:
            while server.has_free_slot and server.subject in self.waiting:
                self.grant(server)

    def grant(self, server: Running) -> None:
        queue = self.waiting[server.subject]
        request = queue.popleft()
        if not queue:
            del self.waiting[server.subject]
        server.busy += 1
        self.result.waits.append(self.now - request.at)
        self._later(self.now + request.service_seconds, "release", server)

    def load(self, subject: Subject, on: dict[str, int]) -> None:
        server = Running(subject, on, self.now, self.now)
        self.servers.append(server)
        for uuid, size in on.items():
            self.free[uuid] -= size
        self.result.loads += 1
        self.result.load_gpu_seconds += subject.load_seconds * len(on)
        self._later(self.now + subject.load_seconds, "ready", server)

    def stop(self, server: Running) -> None:
        assert server.is_idle, "busy servers are never stopped"
        server.is_stopping = True
        self._later(self.now + STOP_SECONDS + RETURN_SECONDS, "gone", server)

    # --- queries ---------------------------------------------------------------------------------------------------

    def server_of(self, subject: Subject) -> Running | None:
        return next((each for each in self.servers if each.subject is subject), None)

    def cold(self) -> list[Subject]:
        """Models with waiting requests and no server, the oldest request first."""
        loaded = {each.subject for each in self.servers}
        return sorted(self.waiting.keys() - loaded, key=lambda each: self.waiting[each][0].number)

    def place(self, subject: Subject, without: Iterable[Running] = ()) -> dict[str, int] | None:
        """Bytes by card where it fits now, or once the servers in `without` are gone; None if nowhere."""
        free = dict(self.free)
        for server in without:
            for uuid, size in server.on.items():
                free[uuid] += size
        fitting = [uuid for uuid, size in free.items() if size >= subject.gpu_bytes]
        if fitting:
            return {min(fitting, key=lambda uuid: free[uuid]): subject.gpu_bytes}
        emptiest = sorted(free, key=lambda uuid: -free[uuid])
        for count in range(2, len(emptiest) + 1):
            need, on = subject.split_bytes(count), {}
            if sum(free[uuid] for uuid in emptiest[:count]) >= need:
                for uuid in emptiest[:count]:
                    on[uuid] = min(free[uuid], need)
                    need -= on[uuid]
                return on
        return None

    @property
    def idle(self) -> list[Running]:
        """Idle servers without waiting requests, the least recently used first."""
        idle = (each for each in self.servers if each.is_idle and each.subject not in self.waiting)
        return sorted(idle, key=lambda each: each.last_used)

    @property
    def stopping(self) -> list[Running]:
        return [each for each in self.servers if each.is_stopping]

    def load_or_evict(self, subject: Subject) -> bool:
        """Load it, or evict as many idle servers as it takes, least recently used first; whether that is enough."""
        if on := self.place(subject):
            self.load(subject, on)
            return True
        victims: list[Running] = []
        for server in [None, *self.idle]:
            victims += [server] if server else []
            if self.place(subject, [*self.stopping, *victims]):
                for each in victims:
                    self.stop(each)
                return True
        return False

    # --- events ------------------------------------------------------------------------------------------------

    def _later(self, at: float, what: str, about: object) -> None:
        self._order += 1
        heapq.heappush(self._agenda, (at, self._order, what, about))

    def _arrive(self, request: Request) -> None:
        self.arrived = request.number
        self.waiting.setdefault(request.subject, deque()).append(request)

    def _ready(self, server: Running) -> None:
        server.is_ready, server.last_used = True, self.now

    def _release(self, server: Running) -> None:
        server.busy -= 1
        server.last_used = self.now

    def _gone(self, server: Running) -> None:
        self.servers.remove(server)
        for uuid, size in server.on.items():
            self.free[uuid] += size


class LruCount(Peer):
    """llama.cpp's router: at most four models, evicting the least recently used; loads do not wait for each other. It
    ignores memory; here it also evicts until the next model fits, as if the limit had been chosen well."""

    max_models = 4

    def settle(self) -> None:
        self.grant_all()
        for subject in self.cold():
            while len(self.servers) - len(self.stopping) >= self.max_models and self.idle:
                self.stop(self.idle[0])
            if len(self.servers) < self.max_models:
                self.load_or_evict(subject)


class FifoSwap(Peer):
    """llama-swap with its defaults: one model at a time. Requests for the loaded model are served while no other model
    is requested; then it swaps, and serves all waiting requests for the next model together."""

    served_up_to = 0  # requests numbered up to this are served before the next swap

    def settle(self) -> None:
        server = self.servers[0] if self.servers else None
        if server is None:
            for subject in self.cold()[:1]:
                on = self.place(subject)
                assert on, "every model fits an empty machine"
                self.load(subject, on)
                self.served_up_to = self.arrived
            return
        if not server.is_ready:
            self.served_up_to = self.arrived
        others = any(subject is not server.subject for subject in self.waiting)
        while server.has_free_slot and self._is_next(server, others):
            self.grant(server)
        if others and server.is_idle:
            self.stop(server)

    def _is_next(self, server: Running, others: bool) -> bool:
        queue = self.waiting.get(server.subject)
        return queue is not None and (not others or queue[0].number <= self.served_up_to)


class LruMemory(Peer):
    """ollama: as many models as fit in memory, evicting the least recently used; one load at a time, in queue order."""

    def settle(self) -> None:
        self.grant_all()
        cold = self.cold()
        if cold and all(each.is_ready for each in self.servers):
            self.load_or_evict(cold[0])


PEERS = {"lru-count": LruCount, "fifo-swap": FifoSwap, "lru-memory": LruMemory}
