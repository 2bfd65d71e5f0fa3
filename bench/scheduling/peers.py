"""Policies of other projects, each as a small simulator on the same machine, models and requests.

All use the placement of ours: the fullest card with enough free memory, else the fewest cards that hold the model. None
overcommits memory, and each waits until memory has been released.

Where an implementation falls short of its policy, the policy is simulated. All peers know immediately what is free and
what has exited; really they poll (ollama at fb307609 every 250 ms, llama-swap at 0bdb3720 every second). ollama fills a
card up to 80 % of its free memory, else uses all cards, and evicts idle models by keep-alive, then by name; here the
least recently used one is evicted. llama.cpp's router (b11434) ignores memory, and llama-swap rejects more than ten
requests for a model. In the router's disfavour: it really does not wait for memory to be released, which costs 0.7 s
per swap here, though without it a load may run out of memory. Its limit of four models cripples it on five cards, so
`lru-count-16` is the same with sixteen, and the fairest comparison.
"""

from __future__ import annotations

from bench.scheduling.peer import Peer, Running


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


class LruCount16(LruCount):
    """The same with a limit that memory reaches first."""

    max_models = 16


class FifoSwap(Peer):
    """llama-swap with its defaults: one model at a time. Requests for the loaded model are served while no other model
    is requested; then it swaps, and serves all waiting requests for the next model together."""

    served_up_to = 0.0  # requests that arrived up to then are served before the next swap

    def settle(self) -> None:
        server = self.servers[0] if self.servers else None
        if server is None:
            for subject in self.cold()[:1]:
                on = self.place(subject)
                assert on, "every model fits an empty machine"
                self.load(subject, on)
                self.served_up_to = self.now
            return
        if not server.is_ready:
            self.served_up_to = self.now
        others = any(subject is not server.subject for subject in self.waiting)
        while server.has_free_slot and self._is_next(server, others):
            self.grant(server)
        if others and server.is_idle:
            self.stop(server)

    def _is_next(self, server: Running, others: bool) -> bool:
        queue = self.waiting.get(server.subject)
        return queue is not None and (not others or queue[0].at <= self.served_up_to)


class LruMemory(Peer):
    """ollama: as many models as fit in memory, evicting the least recently used; one load at a time, in queue order."""

    def settle(self) -> None:
        self.grant_all()
        cold = self.cold()
        if cold and all(each.is_ready for each in self.servers):
            self.load_or_evict(cold[0])


PEERS = {"lru-count": LruCount, "lru-count-16": LruCount16, "fifo-swap": FifoSwap, "lru-memory": LruMemory}
