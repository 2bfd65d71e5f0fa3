"""EffectRunner: carries out the effects of a step."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from app.entities.memory import MemoryReading
from app.entities.refusal import Refusal
from app.use_cases.scheduling import effects as fx
from app.use_cases.scheduling import events as ev
from workers.pool.pending_lease import Answer
from workers.pool.processes import Processes
from workers.telemetry.store import StateStore

log = logging.getLogger(__name__)

MAX_LOGGED_CHARACTERS = 300  # of a refusal's detail: its end, which says most


@dataclass(frozen=True, slots=True)
class EffectRunner:
    """Used by the holder of the pool lock alone. `answers`: by ticket, of requests that wait for theirs."""

    store: StateStore
    answers: dict[int, Answer]
    processes: Processes
    read_memory: Callable[[Mapping[int, int]], MemoryReading]
    read_gpus: Callable[[], None]
    probe_engine: Callable[[], None]
    post: Callable[[ev.Event], None]

    def run(self, effect: fx.Effect) -> None:
        """Carry it out. One that fails does not prevent the others: they are other requests' answers."""
        try:
            self._carry_out(effect)
        except Exception:
            log.exception("effect failed: %r", effect)

    def reject(self, ticket: int, refusal: Refusal) -> None:
        """Answer a command with the refusal."""
        detail = refusal.detail[-MAX_LOGGED_CHARACTERS:]
        fields = ticket, refusal.model, refusal.reason, detail
        log.info("request rejected ticket=%d model=%s reason=%s detail=%r", *fields)
        self.answers.pop(ticket).set_result(refusal)

    def _carry_out(self, effect: fx.Effect) -> None:
        match effect:
            case fx.Grant(ticket, server_id):
                self.answers.pop(ticket).set_result(server_id)
            case fx.Done(ticket):
                self.answers.pop(ticket).set_result(None)
            case fx.Refuse(ticket, refusal):
                self.reject(ticket, refusal)
            case fx.Spawn(server):
                self.processes.start(server)
            case fx.Stop(server_id, why, detail):
                self.processes.stop(server_id, why, detail)
            case fx.CheckServer(server_id, counts_slots):
                self.processes.check(server_id, counts_slots)
            case fx.ReadMemory():
                self._read_memory()
            case fx.ReadGpus():
                self.read_gpus()
            case fx.ProbeEngine():
                self.probe_engine()

    def _read_memory(self) -> None:
        pids = {server.id: server.pid for server in self.store.pool.servers if server.pid is not None}
        try:
            memory = self.read_memory(pids)
        except OSError as error:
            self.post(ev.MemoryReadFailed(f"cannot read the machine's memory: {error}", time.monotonic()))
        else:
            self.post(ev.MemoryRead(memory, time.monotonic()))
