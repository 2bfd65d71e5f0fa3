"""What others do, each as a small simulator over the same machine, models and requests.

All have the places of cards chosen for them as well as ours: the fullest card with room, else the fewest that hold it
together. None takes more memory than there is, and each waits until it is back.

Where a peer does worse than its idea, the idea is what is simulated. All know at once what is free and what has ended;
they poll (ollama at fb307609 each 250 ms, llama-swap at 0bdb3720 each second). ollama fills a card to 80 % of what is
free, else takes all cards, and stops idle models by keep-alive, then by name: here the longest unused one goes.
llama.cpp's router (b11434) looks at no memory, and llama-swap refuses more than ten requests for a model. Against that,
the router does not wait for memory, which is 0.7 s a swap and may end in a load that runs out.
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
    """A server from its start until its memory is back."""

    subject: Subject
    on: dict[str, int]
    started_at: float
    last_used: float
    is_ready: bool = False
    is_going: bool = False
    busy: int = 0

    @property
    def is_idle(self) -> bool:
        return self.is_ready and not self.busy and not self.is_going

    @property
    def has_free_slot(self) -> bool:
        return self.is_ready and self.busy < SLOTS and not self.is_going


@dataclass
class Peer:
    """The world; `settle` is the policy."""

    machine: Machine
    requests: tuple[Request, ...]
    result: Result = field(default_factory=Result)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.waiting: dict[Subject, deque[Request]] = {}  # by model, nobody without one
        self.servers: list[Running] = []
        self.free = dict(self.machine.usable)
        self.arrived = -1  # the last one's number
        self._agenda: list[tuple[float, int, str, object]] = []
        self._order = 0

    def run(self) -> Result:
        for request in self.requests:
            self._later(request.at, "arrive", request)
        while self._agenda:
            self.now, _, what, about = heapq.heappop(self._agenda)
            getattr(self, f"_{what}")(about)
            self.settle()
        assert not self.waiting, "everyone is served"
        return self.result

    def settle(self) -> None:
        raise NotImplementedError

    # --- orders ------------------------------------------------------------------------------------------------------

    def grant_all(self) -> None:
        """Free slots to those who wait for them, oldest first."""
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
        assert server.is_idle, "busy is never cut"
        server.is_going = True
        self._later(self.now + STOP_SECONDS + RETURN_SECONDS, "gone", server)

    # --- questions ---------------------------------------------------------------------------------------------------

    def server_of(self, subject: Subject) -> Running | None:
        return next((each for each in self.servers if each.subject is subject), None)

    def cold(self) -> list[Subject]:
        """Models that are waited for and not there, the longest waited for first."""
        there = {each.subject for each in self.servers}
        return sorted(self.waiting.keys() - there, key=lambda each: self.waiting[each][0].number)

    def place(self, subject: Subject, without: Iterable[Running] = ()) -> dict[str, int] | None:
        """Where it fits now, or once these have left."""
        free = dict(self.free)
        for server in without:
            for uuid, size in server.on.items():
                free[uuid] += size
        fitting = [uuid for uuid, room in free.items() if room >= subject.gpu_bytes]
        if fitting:
            return {min(fitting, key=lambda uuid: free[uuid]): subject.gpu_bytes}
        roomy = sorted(free, key=lambda uuid: -free[uuid])
        for count in range(2, len(roomy) + 1):
            need, on = subject.split_bytes(count), {}
            if sum(free[uuid] for uuid in roomy[:count]) >= need:
                for uuid in roomy[:count]:
                    on[uuid] = min(free[uuid], need)
                    need -= on[uuid]
                return on
        return None

    @property
    def idle(self) -> list[Running]:
        """The longest unused first; those somebody waits for are not."""
        idle = (each for each in self.servers if each.is_idle and each.subject not in self.waiting)
        return sorted(idle, key=lambda each: each.last_used)

    @property
    def leaving(self) -> list[Running]:
        return [each for each in self.servers if each.is_going]

    def make_room(self, subject: Subject) -> bool:
        """Load it, or stop as many idle ones as it takes, the longest unused first. False: that is not enough."""
        if on := self.place(subject):
            self.load(subject, on)
            return True
        gone: list[Running] = []
        for server in [None, *self.idle]:
            gone += [server] if server else []
            if self.place(subject, [*self.leaving, *gone]):
                for each in gone:
                    self.stop(each)
                return True
        return False

    # --- what happens ------------------------------------------------------------------------------------------------

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
    """llama.cpp's router: four models at most, the longest unused goes; each load waits for itself alone. It does not
    look at memory; here it also stops models until the next one fits, as if the number had been chosen well."""

    most = 4

    def settle(self) -> None:
        self.grant_all()
        for subject in self.cold():
            while len(self.servers) - len(self.leaving) >= self.most and self.idle:
                self.stop(self.idle[0])
            if len(self.servers) < self.most:
                self.make_room(subject)


class FifoSwap(Peer):
    """llama-swap as it comes: one model at a time. Who asks for the one that is loaded is served while nobody waits for
    another; then the others' turn comes, all requests for a model together."""

    turn = 0  # requests that came up to now are served before the next swap

    def settle(self) -> None:
        server = self.servers[0] if self.servers else None
        if server is None:
            for subject in self.cold()[:1]:
                on = self.place(subject)
                assert on, "it fits an empty machine"
                self.load(subject, on)
                self.turn = self.arrived
            return
        if not server.is_ready:
            self.turn = self.arrived
        others = any(subject is not server.subject for subject in self.waiting)
        while server.has_free_slot and self._is_next(server, others):
            self.grant(server)
        if others and server.is_idle:
            self.stop(server)

    def _is_next(self, server: Running, others: bool) -> bool:
        queue = self.waiting.get(server.subject)
        return queue is not None and (not others or queue[0].number <= self.turn)


class LruMemory(Peer):
    """ollama: as many as memory holds, the longest unused goes; one load at a time, in the order of the queue."""

    def settle(self) -> None:
        self.grant_all()
        cold = self.cold()
        if cold and all(each.is_ready for each in self.servers):
            self.make_room(cold[0])


PEERS = {"lru-count": LruCount, "fifo-swap": FifoSwap, "lru-memory": LruMemory}
