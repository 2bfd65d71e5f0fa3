"""Measures the memory of one start, from llama-server's log and the machine, and adds it to the history."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from app.entities.launch import LoadMode
from app.entities.memory import Estimate
from app.entities.placement import CPU
from app.entities.server import Server
from app.use_cases.scheduling import events as ev
from workers.gpu.ram import process_bytes
from workers.measurement.history import History
from workers.measurement.memory_report import EngineReport
from workers.measurement.model_history import Start

log = logging.getLogger(__name__)

# A projection that is lower than the booking by up to this confirms it: projections lack the output buffer of
# vocabulary x slots x 4 bytes (2.3 MiB for 152,064 tokens and 4 slots).
CONFIRMED_BYTES = 8 * 1024**2


class Measurement:
    """Follows one attempt to start a server, on the server's thread; posts Projected, and Measured in `finish`."""

    def __init__(
        self, server: Server, start: Start, history: History, post: Callable[[ev.Event], None], logs_json: bool
    ) -> None:
        self._server = server
        self._start = start
        self._history = history
        self._post = post
        self._logs_json = logs_json
        self._report = EngineReport(logs_json)
        self._base_bytes = 0  # RAM of the process before it loads anything of the model

    def read(self, lines: Iterable[str], pid: int) -> None:
        """Process log lines of the server."""
        for line in lines:
            if self._report.read(line) and self._is_complete:
                self._base_bytes = process_bytes(pid)
                self._post_projected()

    def finish(self, pid: int, nvml_bytes: Mapping[int, int] | None = None) -> None:
        """Call when the model is loaded: add what it took to the history. `nvml_bytes`: as for History.remember."""
        loaded = self._report.loaded()
        if loaded is None or not self._is_complete or not self._matches_placement(loaded.need):
            return
        # Buffers may not be touched yet, so the difference may be below what the process held without any.
        held = self._without_gpu_buffers(process_bytes(pid) - loaded.unmapped_bytes, loaded.need)
        overhead_bytes = max(self._base_bytes, held)
        host = replace(loaded.need.host, overhead_bytes=overhead_bytes)
        self._history.remember(self._start, replace(loaded.need, host=host), nvml_bytes)
        need = self._history.estimate(self._start)
        assert need is not None
        self._log("measured", need)
        self._post(ev.Measured(self._server.id, self._server.placement.booking_for(need), time.monotonic()))

    def _without_gpu_buffers(self, held_bytes: int, need: Estimate) -> int:
        """Of a process's RAM. Where a GPU uses RAM as its memory, its buffers may count as the process's own, and they
        are booked on the GPU."""
        on_gpus = sum(device.total_bytes for device in need.devices)
        return held_bytes - on_gpus if self._server.placement.unified and held_bytes >= on_gpus else held_bytes

    @property
    def reports_no_gpu(self) -> bool:
        """Whether it was placed on GPUs, and the memory that it reports is all RAM.

        A table proves nothing: another thread's line may have cut a GPU's row. The buffers follow it.
        """
        if self._server.placement.is_on_cpu:
            return False
        loaded = self._report.loaded()
        reports = (self._report.projected if self._logs_json else None, loaded.need if loaded else None)
        return any(report is not None and not report.devices for report in reports)

    def _post_projected(self) -> None:
        projected = self._report.projected
        assert projected is not None
        if not self._matches_placement(projected):
            log.warning(
                "server=%d model=%s was placed on %s but reports memory on %d GPUs",
                *(self._server.id, self._server.model.name, self._server.placement.device, len(projected.devices)),
            )
            return
        need = self._history.with_overheads(self._start, projected)
        is_confirmed = self._confirms(need)
        if not is_confirmed or self._history.estimate(self._start) is None:
            self._history.remember(self._start, projected, is_measured=False)
        self._log("projected", need)
        needs = self._booked if is_confirmed else self._with_load_buffers(need)
        self._post(ev.Projected(self._server.id, needs, time.monotonic()))

    def _with_load_buffers(self, need: Estimate) -> dict[str, int]:
        """What to book until it is measured: the buffers that a file is read through are no part of a projection."""
        needs, mode = self._server.placement.booking_for(need), self._server.model.launch.options.load_mode
        has_buffers = mode in (LoadMode.READ, LoadMode.DIRECT)
        return {**needs, CPU: max(needs[CPU], self._booked[CPU])} if has_buffers else needs

    def _confirms(self, need: Estimate) -> bool:
        """Whether the booking of each device equals the projection, or is slightly higher."""
        booked, on_cpu = self._booked, self._server.placement.is_on_cpu
        devices = [] if on_cpu else list(zip(self._server.placement.uuids, need.devices, strict=True))
        return all(
            each.total_bytes <= booked[device] <= each.booked_bytes + CONFIRMED_BYTES
            for device, each in (*devices, (CPU, need.host))
        )

    @property
    def _booked(self) -> dict[str, int]:
        """For what the engine reports: its prompt cache is not part of that."""
        booked = self._server.booked
        return {**booked, CPU: booked[CPU] - self._server.placement.prompt_cache_bytes}

    def _matches_placement(self, need: Estimate) -> bool:
        """Whether it reports as many GPUs as it was placed on. An engine whose CUDA does not work reports only RAM,
        which says nothing about GPUs."""
        placement = self._server.placement
        return len(need.devices) == (0 if placement.is_on_cpu else len(placement.uuids))

    @property
    def _is_complete(self) -> bool:
        """Whether the report includes the projector, if there is one: not every build reports it."""
        return self._server.model.launch.mmproj is None or self._report.knows_projector

    def _log(self, what: str, need: Estimate) -> None:
        log.info(
            "%s server=%d model=%s need_mib=%d booked_mib=%d",
            *(what, self._server.id, self._server.model.name, need.booked_bytes >> 20),
            self._server.expected_bytes >> 20,
        )
