"""What the service keeps in its state directory, apart from its lock and the GPUs it has seen."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from app.entities.model import Model
from app.settings.schema import Settings
from workers.clients.daily_tokens import DailyTokens
from workers.logs.logs import ServiceLogs
from workers.measurement.history import History
from workers.model_files.load_rates import LoadRates
from workers.server.orphans import PidRecords
from workers.server.slot_files import SlotFiles
from workers.upgrade_notices import warn_of_changes

log = logging.getLogger(__name__)


class StateFiles:
    """Records of processes, the history and the rates of loads, used tokens, saved slots, and logs. Started before the
    other parts of the service, and closed after them."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder = folder
        self.records = PidRecords(folder / "servers")
        self.history = History(folder / "history.sqlite3")
        self.load_rates = LoadRates(folder / "load-rates.json")
        self.tokens = DailyTokens(folder / "key-tokens.json")
        self.slots = SlotFiles(folder / "slots", settings.scheduling.kv_cache_disk)
        self.logs = ServiceLogs(folder / "logs", settings.engine.log_files)

    def start(self, settings: Settings, models: Sequence[Model]) -> None:
        """Clean up after an earlier run, then start the threads that write."""
        self.logs.start()
        warn_of_changes(self._folder, settings, models)  # before anything else writes to a new directory
        if killed := self.records.sweep():
            log.warning("killed orphans pids=%s", killed)
        self.records.begin()
        self.slots.clean([model.name for model in models if model.keep_kv_cache])
        self.history.start()
        self.tokens.start()

    def apply(self, settings: Settings) -> None:
        """Take over what a reload may have changed."""
        self.logs.keep_files(settings.engine.log_files)
        self.slots.quota_bytes = settings.scheduling.kv_cache_disk

    def close(self) -> None:
        """The logs still take lines of requests that were cut off, so nothing may close after it."""
        self.history.close()
        self.tokens.close()
        self.logs.close()
