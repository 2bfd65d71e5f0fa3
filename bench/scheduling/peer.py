"""The machine that the peers' policies run on: each policy is a `settle`."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from bench.scheduling.arrivals import FollowUp, Request, no_follow_up
from bench.scheduling.disk import Disk
from bench.scheduling.machines import RETURN_SECONDS, SLOTS, START_SECONDS, STOP_SECONDS, Machine, Subject
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
    follow_up: FollowUp = no_follow_up
    result: Result = field(default_factory=Result)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.waiting: dict[Subject, deque[Request]] = {}  # by model; no empty queues
        self.servers: list[Running] = []
        self.free = dict(self.machine.usable)
        self.disk = Disk(self.machine.shares_disk)
        self._loading: dict[int, Running] = {}  # by key of the disk
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
        self.result.note(request, self.now)
        ends = self.now + request.service_seconds
        self._later(ends, "release", server)
        if following := self.follow_up(request, ends):
            self._later(following.at, "arrive", following)

    def load(self, subject: Subject, on: dict[str, int]) -> None:
        server = Running(subject, on, self.now, self.now)
        self.servers.append(server)
        for uuid, size in on.items():
            self.free[uuid] -= size
        self.result.loads += 1
        self._loading[self.result.loads] = server
        self.disk.begin(self.result.loads, self.now, START_SECONDS, subject.read_seconds)
        self._later(self.disk.next_at(), "read", None)

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
        return sorted(self.waiting.keys() - loaded, key=lambda each: self.waiting[each][0].order)

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
        self.waiting.setdefault(request.subject, deque()).append(request)

    def _read(self, _: None) -> None:
        for key in self.disk.finished(self.now):
            server = self._loading.pop(key)
            server.is_ready, server.last_used = True, self.now
            self.result.load_gpu_seconds += (self.now - server.started_at) * len(server.on)
        if self._loading:
            self._later(self.disk.next_at(), "read", None)

    def _release(self, server: Running) -> None:
        server.busy -= 1
        server.last_used = self.now

    def _gone(self, server: Running) -> None:
        self.servers.remove(server)
        for uuid, size in server.on.items():
            self.free[uuid] += size
