"""Processes: the running llama-servers of the pool, by server id."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from app.entities.server import Server
from app.ports import Address
from app.use_cases.scheduling.effects import StopReason
from app.use_cases.scheduling.events import Event, Exited

log = logging.getLogger(__name__)


class Process(Protocol):
    """What the pool needs of a running llama-server (workers/server/llama_server.py; a scripted one in tests)."""

    @property
    def api_key(self) -> str: ...
    def stop(self, saves: bool = False) -> None: ...
    def check(self, counts_slots: bool) -> None: ...
    def kill(self) -> None: ...


Spawn = Callable[[Server, Callable[[Event], None]], Process]  # the process reports through the callback


class Processes:
    """Changed by the lock holder alone; any thread may read addresses, and `kill`."""

    def __init__(self, spawn: Spawn, post: Callable[[Event], None]) -> None:
        self._spawn = spawn
        self._post = post
        self._processes: dict[int, Process] = {}

    def start(self, server: Server) -> None:
        place = server.placement
        log.info(
            "spawn server=%d model=%s device=%s book_mib=%d confidence=%s ctx_size=%d prompt_cache_mib=%d",
            *(server.id, server.model.name, place.device, server.expected_bytes >> 20),
            *(place.estimate.confidence, place.ctx_size, place.prompt_cache_bytes >> 20),
        )
        try:
            self._processes[server.id] = self._spawn(server, self._post)
        except Exception as error:  # no file descriptor or thread left; or a bug: it would stay STARTING for ever
            self._post(Exited(server.id, str(error), time.monotonic(), could_not_spawn=True))

    def stop(self, server_id: int, why: StopReason, detail: str) -> None:
        level = logging.WARNING if why.kills else logging.INFO
        log.log(level, "stop server=%d why=%s%s", server_id, why, f" {detail}" if detail else "")
        if process := self._processes.get(server_id):
            process.stop(why.allows_cache_save)
            if why.kills:
                process.kill()

    def check(self, server_id: int, counts_slots: bool) -> None:
        if process := self._processes.get(server_id):
            process.check(counts_slots)

    def remove(self, server_id: int) -> None:
        """The process has ended."""
        self._processes.pop(server_id, None)

    def kill(self) -> None:
        for process in list(self._processes.values()):
            process.kill()

    def addresses(self, servers: Sequence[Server]) -> list[Address]:
        """Of those that answer requests, and respond."""
        responding = [server for server in servers if server.is_up and server.unresponsive_since is None]
        return [address for server in responding if (address := self.address(server))]

    def address(self, server: Server | None) -> Address | None:
        """Where the server answers; None if it does not, or not yet."""
        process = self._processes.get(server.id) if server else None
        if server is None or process is None or server.port is None:
            return None
        options, placement = server.model.launch.options, server.placement
        tokens = placement.ctx_size // (1 if options.kv_unified else options.parallel)
        return Address(server.id, server.model.name, server.port, process.api_key, tokens, placement.device)
