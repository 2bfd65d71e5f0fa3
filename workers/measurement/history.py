"""The memory that loads really took: one row for each combination of file, command line, engine and GPUs.

Lookups read a copy in memory, and one thread writes the SQLite file, so that no request waits for the disk. If the
database is broken, locked or read-only, a warning is logged and the history is lost with the process.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from app.entities.memory import Confidence, DeviceMemory, Estimate
from workers.measurement.model_history import ModelHistory, Row, Start, overheads_of

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
MAX_ROWS = 1000
BUSY_SECONDS = 0.5  # another process has the database locked
_COLUMN_NAMES = "key, at, model, engine, gpus, is_measured, need"
_MAX_BYTES = 2**60  # beyond any machine
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS loads (
    key TEXT PRIMARY KEY, at INTEGER NOT NULL, model TEXT NOT NULL, engine TEXT NOT NULL, gpus TEXT NOT NULL,
    is_measured INTEGER NOT NULL, need TEXT NOT NULL);
PRAGMA user_version = {SCHEMA_VERSION};
"""


class History:
    """What past loads took. Any thread may read and add; the thread `history` alone writes the file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._rows: dict[str, Row] = {}  # by key, oldest first; under the lock
        self._overheads: dict[str, Mapping[str, int]] = {}  # of these rows, by engine, on demand; under the lock
        self._lock = threading.Lock()
        self._unwritten: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_rows, name="history", daemon=True)

    def start(self) -> None:
        """Read the file, then start the thread that writes it."""
        with self._lock:
            self._rows, self._overheads = {row.start.key: row for row in self._read()}, {}
        self._thread.start()

    def close(self, timeout: float = 1.0) -> None:
        """Wait until everything is written, `timeout` seconds at most."""
        self._unwritten.put(None)
        self._thread.join(timeout)

    def of_model(self, model: str, engine: str) -> ModelHistory:
        """The history of the model with this path. `engine`: EngineFacts.identity."""
        with self._lock:
            same_build = {key: row for key, row in self._rows.items() if row.start.engine == engine}
            if engine not in self._overheads:
                self._overheads[engine] = overheads_of(same_build.values())
            rows = {key: row for key, row in same_build.items() if row.start.model == model}
            return ModelHistory(rows, self._overheads[engine])

    def knows(self, model: str) -> bool:
        """Whether the model with this path was ever loaded."""
        with self._lock:
            return any(row.start.model == model for row in self._rows.values())

    def estimate(self, start: Start) -> Estimate | None:
        """The measured memory of this start, or else the projected; None if it is new."""
        return self.of_model(start.model, start.engine).estimate(start)

    def with_overheads(self, start: Start, need: Estimate) -> Estimate:
        return self.of_model(start.model, start.engine).with_overheads(need, start.gpus, start.key)

    def remember(
        self, start: Start, need: Estimate, nvml_bytes: Mapping[int, int] | None = None, is_measured: bool = True
    ) -> None:
        """Add the memory of a start. `nvml_bytes`: the process's memory as NVML reports it, by the index of the GPU
        among those it may use; the part beyond its buffers is overhead."""
        devices = tuple(_with_overhead_of(device, (nvml_bytes or {}).get(n)) for n, device in enumerate(need.devices))
        row = Row(start, int(time.time()), is_measured, replace(need, devices=devices))
        with self._lock:
            self._overheads.pop(start.engine, None)
            self._rows.pop(start.key, None)
            self._rows[start.key] = row
            while len(self._rows) > MAX_ROWS:
                del self._rows[next(iter(self._rows))]
        self._unwritten.put(row)

    # --- the file ------------------------------------------------------------------------------------------

    def _read(self) -> list[Row]:
        try:
            with self._database() as database:
                found = database.execute(f"SELECT {_COLUMN_NAMES} FROM loads ORDER BY at, rowid").fetchall()
        except (sqlite3.Error, OSError) as error:
            self._warn(error)
            if getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                self._move_away()
            return []
        return [row for row in map(_row_of, found) if row is not None]

    def _write_rows(self) -> None:
        while (row := self._unwritten.get()) is not None:
            try:
                with self._database() as database:
                    database.execute("INSERT OR REPLACE INTO loads VALUES (?, ?, ?, ?, ?, ?, ?)", _columns(row))
                    oldest = "SELECT rowid FROM loads ORDER BY at DESC, rowid DESC LIMIT -1 OFFSET ?"
                    database.execute(f"DELETE FROM loads WHERE rowid IN ({oldest})", (MAX_ROWS,))
            except (sqlite3.Error, OSError) as error:
                self._warn(error)

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """One transaction. Opened each time: loads are rare, and a deleted or replaced file then does no harm."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(self._file, timeout=BUSY_SECONDS)) as database, database:
            database.execute("PRAGMA journal_mode = WAL")
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, SCHEMA_VERSION):
                raise sqlite3.DatabaseError(f"its schema version is {version}, this program's is {SCHEMA_VERSION}")
            if version == 0:
                database.executescript(_SCHEMA)
            yield database

    def _move_away(self) -> None:
        """Rename a broken database, so that a new one is created: its content is not worth repairing."""
        with contextlib.suppress(OSError):
            self._file.replace(self._file.with_name(self._file.name + ".broken"))

    def _warn(self, error: Exception) -> None:
        log.warning("history %s cannot be used: %s; measurements are lost at the next restart", self._file, error)


def _with_overhead_of(device: DeviceMemory, nvml_bytes: int | None) -> DeviceMemory:
    if nvml_bytes is None:
        return device
    buffers = replace(device, overhead_bytes=0).total_bytes
    return replace(device, overhead_bytes=max(0, nvml_bytes - buffers))


def _columns(row: Row) -> tuple[object, ...]:
    start, need = row.start, json.dumps(asdict(row.need))
    return (start.key, row.at, start.model, start.engine, json.dumps(start.gpus), row.is_measured, need)


def _row_of(columns: tuple[str, int, str, str, str, int, str]) -> Row | None:
    """A row of the table; None if it cannot be parsed."""
    key, at, model, engine, gpus, is_measured, text = columns
    try:
        need = json.loads(text)
        host, *devices = (
            DeviceMemory(**{name: _size(size) for name, size in memory.items()})
            for memory in (need["host"], *need["devices"])
        )
        estimate = Estimate(tuple(devices), host, Confidence(need["confidence"]), tuple(need["notes"]))
        return Row(Start(key, model, engine, tuple(json.loads(gpus))), at, bool(is_measured), estimate)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        log.warning("history: skipping the unreadable row of %s", model)
        return None


def _size(size: object) -> int:
    if type(size) is not int or not 0 <= size < _MAX_BYTES:
        raise ValueError(size)
    return size
