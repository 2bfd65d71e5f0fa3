"""The log line of a load that has ended, beside what loads like it usually do."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from app.entities.load import LoadReport, load_rate_text
from app.entities.server import Server
from workers.model_files.load_rates import LoadRates

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadLog:
    rates: LoadRates

    def note(self, load: LoadReport, server: Server) -> None:
        """Called by the server's thread when it is ready."""
        own = server.model.launch.engine
        where = server.placement.device.partition(":")[0] + (f" with {own}" if own else "")
        usual = self.rates.usual(load, where)
        before = f" usually {load_rate_text(usual)}" if usual else ""
        fields = server.id, server.model.name, load.mode, load.source or "unknown", load.text, before
        log.info("loaded server=%d model=%s mode=%s from=%s %s%s", *fields)
        self.rates.note(load, where)
