"""The memory of one start: what its llama-server says, what the machine shows, and what is remembered of both."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from app.entities.memory import Estimate
from app.entities.placement import CPU
from app.entities.server import Server
from app.use_cases.scheduling import events as ev
from workers.gpu.ram import process_bytes
from workers.measurement.history import History, Start
from workers.measurement.memory_report import EngineReport

log = logging.getLogger(__name__)

# What a projection may lie below a booking that it still confirms: it lacks the buffer of the outputs, which is
# vocabulary x slots x 4 bytes (2.3 MiB for 152,064 tokens and 4 slots).
CONFIRMED_BYTES = 8 * 1024**2


class Measurement:
    """Follows one attempt at a start, on the thread of its server; tells Projected, and Measured once it is asked."""

    def __init__(
        self, server: Server, start: Start, history: History, post: Callable[[ev.Event], None], logs_json: bool
    ) -> None:
        self._server = server
        self._start = start
        self._history = history
        self._post = post
        self._report = EngineReport(logs_json)
        self._base_bytes = 0  # what the process holds before there is anything of the model in it

    def read(self, lines: Iterable[str], pid: int) -> None:
        """Take in what it logged."""
        for line in lines:
            if self._report.read(line) and self._is_whole:
                self._base_bytes = process_bytes(pid)
                self._projected()

    def finish(self, pid: int, shown_bytes: Mapping[int, int] | None = None) -> None:
        """Its model is loaded: remember what it took. `shown_bytes` is what NVML shows for it, by GPU as it counts."""
        loaded = self._report.loaded()
        if loaded is None or not self._is_whole or not self._is_where_it_was_placed(loaded.need):
            return
        # Buffers may not be in use yet, so the rest may come out below what the process held without any.
        overhead_bytes = max(self._base_bytes, process_bytes(pid) - loaded.unmapped_bytes)
        host = replace(loaded.need.host, overhead_bytes=overhead_bytes)
        self._history.remember(self._start, replace(loaded.need, host=host), shown_bytes)
        need = self._history.estimate(self._start)
        assert need is not None
        self._say("measured", need)
        self._post(ev.Measured(self._server.id, self._server.placement.booking_for(need), time.monotonic()))

    def _projected(self) -> None:
        said = self._report.projected
        assert said is not None
        if not self._is_where_it_was_placed(said):
            log.warning(
                "server=%d model=%s was placed on %s and says that it uses %d GPUs",
                *(self._server.id, self._server.model.name, self._server.placement.device, len(said.devices)),
            )
            return
        need = self._history.with_overheads(self._start, said)
        is_confirmed = self._confirms(need)
        if not is_confirmed or self._history.estimate(self._start) is None:
            self._history.remember(self._start, said, is_measured=False)
        self._say("projected", need)
        needs = self._server.booked if is_confirmed else self._server.placement.booking_for(need)
        self._post(ev.Projected(self._server.id, needs, time.monotonic()))

    def _confirms(self, need: Estimate) -> bool:
        """Whether what is booked on each device is what it says, or a little more."""
        booked, on_cpu = self._server.booked, self._server.placement.is_on_cpu
        devices = [] if on_cpu else list(zip(self._server.placement.uuids, need.devices, strict=True))
        return all(
            each.total_bytes <= booked[device] <= each.booked_bytes + CONFIRMED_BYTES
            for device, each in (*devices, (CPU, need.host))
        )

    def _is_where_it_was_placed(self, need: Estimate) -> bool:
        """An engine that merely claims to have CUDA speaks of RAM alone: nothing is learned from that about GPUs."""
        placement = self._server.placement
        return len(need.devices) == (0 if placement.is_on_cpu else len(placement.uuids))

    @property
    def _is_whole(self) -> bool:
        """Whether it has spoken of all there is: builds differ in what they say of a projector."""
        return self._server.model.launch.mmproj is None or self._report.knows_projector

    def _say(self, what: str, need: Estimate) -> None:
        log.info(
            "%s server=%d model=%s need_mib=%d booked_mib=%d",
            *(what, self._server.id, self._server.model.name, need.booked_bytes >> 20),
            self._server.expected_bytes >> 20,
        )
