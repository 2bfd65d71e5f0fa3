"""What loads really took: one row for each file, way to start it, engine and set of GPUs, in the state directory.

Look-ups read a copy in memory; a thread of its own writes, so that nobody waits for the disk. A database that is
broken, locked or read-only costs a warning, and what was learned is then forgotten with the process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import queue
import sqlite3
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from app.entities.launch import EngineFacts
from app.entities.memory import Confidence, DeviceMemory, Estimate
from app.entities.model import Model
from app.use_cases.estimate.estimate import GPU_OVERHEAD_BYTES
from app.use_cases.launch.launch import ANY_PORT, launch_plan
from workers.measurement.gpu_overheads import measured_overheads

log = logging.getLogger(__name__)

HOST = "host"  # where GPU models have their names, RAM has this one
SCHEMA_VERSION = 1
MAX_ROWS = 1000
OVERHEADS = 5  # so many of the last loads decide about an overhead
BASE_BYTES = 64 * 1024**2  # of a process without its model, until one was measured: some 20 MiB, and its vocabulary
BUSY_SECONDS = 0.5  # another process has the database locked
_COLUMN_NAMES = "key, at, model, engine, gpus, is_measured, need"
_MOST_BYTES = 2**60  # beyond any machine
_MEMORY_VARIABLES = ("LLAMA_ARG_", "GGML_")
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS loads (
    key TEXT PRIMARY KEY, at INTEGER NOT NULL, model TEXT NOT NULL, engine TEXT NOT NULL, gpus TEXT NOT NULL,
    is_measured INTEGER NOT NULL, need TEXT NOT NULL);
PRAGMA user_version = {SCHEMA_VERSION};
"""


@dataclass(frozen=True, slots=True)
class Start:
    """What decides how much memory a start takes: the file, the command line, the engine, the GPUs in their order."""

    key: str
    model: str  # its path, for people
    engine: str  # EngineFacts.identity
    gpus: tuple[str, ...] = ()  # their models, as "NVIDIA GeForce RTX 4090"


@dataclass(frozen=True, slots=True)
class _Row:
    start: Start
    at: int  # Unix seconds
    is_measured: bool  # else projected: nobody has looked at its overhead
    need: Estimate


@dataclass(frozen=True, slots=True)
class Learned:
    """What was known of the starts of a model at one moment, and of overheads."""

    rows: Mapping[str, _Row]  # by the start's key
    overheads: Mapping[str, int]  # bytes beside the buffers: on a GPU of this model, or of RAM (HOST)

    def estimate(self, start: Start) -> Estimate | None:
        """What this start took, or said that it would; None if it is new."""
        row = self.rows.get(start.key)
        return self.with_overheads(row.need, start.gpus, start.key) if row else None

    def with_overheads(self, need: Estimate, gpus: Sequence[str], key: str = "") -> Estimate:
        """`need` with the overheads that are not in it: those the start of this key had before, else those others have,
        here or (of a GPU) where the table of `gpu_overheads` was measured."""
        row = self.rows.get(key)
        own = dict(_overheads(row)) if row else {}
        devices = tuple(
            self._with_overhead(device, own, name, measured_overheads().get(name, GPU_OVERHEAD_BYTES))
            for name, device in zip(_names(gpus, need), need.devices, strict=False)
        )
        return replace(need, devices=devices, host=self._with_overhead(need.host, own, HOST, BASE_BYTES))

    def _with_overhead(self, memory: DeviceMemory, own: Mapping[str, int], name: str, assumed: int) -> DeviceMemory:
        overhead_bytes = memory.overhead_bytes or own.get(name) or self.overheads.get(name) or assumed
        return replace(memory, overhead_bytes=overhead_bytes)


def start_of(model: Model, engine: EngineFacts, gpus: tuple[str, ...] = ()) -> Start:
    """The start that is remembered and looked up for `model`: the same file, unchanged, started alike.

    The key is made from the very command line, so no option that decides about memory can be forgotten; the names
    of the model and secrets in its variables stay out of it.
    """
    argv = launch_plan(replace(model, name=""), engine, {}, api_key="", port=ANY_PORT).argv
    variables = sorted(item for item in model.launch.env.items() if item[0].upper().startswith(_MEMORY_VARIABLES))
    parts = (argv, variables, model.path, model.size_bytes, model.created, engine.identity, gpus)
    return Start(hashlib.sha256(repr(parts).encode()).hexdigest(), model.path, engine.identity, gpus)


class History:
    """The memory of past loads. Any thread may ask and add; the thread `history` alone writes the file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._rows: dict[str, _Row] = {}  # by key, oldest first; under the lock
        self._overheads: Mapping[str, int] | None = None  # of these rows, once somebody has asked; under the lock
        self._lock = threading.Lock()
        self._unwritten: queue.SimpleQueue[_Row | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_on, name="history", daemon=True)

    def start(self) -> None:
        """Read what earlier lives have learned, then keep what this one learns."""
        with self._lock:
            self._rows, self._overheads = {row.start.key: row for row in self._read()}, None
        self._thread.start()

    def close(self, timeout: float = 1.0) -> None:
        """Wait until all is written, `timeout` seconds at most."""
        self._unwritten.put(None)
        self._thread.join(timeout)

    def learned(self, model: str) -> Learned:
        """What is known of the starts of a model, by its path."""
        with self._lock:
            rows = {key: row for key, row in self._rows.items() if row.start.model == model}
            if self._overheads is None:
                self._overheads = _overheads_of(self._rows.values())
            return Learned(rows, self._overheads)

    def estimate(self, start: Start) -> Estimate | None:
        """What this start took, or said that it would; None if it is new."""
        return self.learned(start.model).estimate(start)

    def with_overheads(self, start: Start, need: Estimate) -> Estimate:
        return self.learned(start.model).with_overheads(need, start.gpus, start.key)

    def remember(
        self, start: Start, need: Estimate, shown_bytes: Mapping[int, int] | None = None, is_measured: bool = True
    ) -> None:
        """Keep what a start needs. `shown_bytes`: what NVML shows for the process, by the number of the GPU among
        those it sees; what exceeds its buffers is overhead."""
        devices = tuple(_with_shown(device, (shown_bytes or {}).get(n)) for n, device in enumerate(need.devices))
        row = _Row(start, int(time.time()), is_measured, replace(need, devices=devices))
        with self._lock:
            self._overheads = None
            self._rows.pop(start.key, None)
            self._rows[start.key] = row
            while len(self._rows) > MAX_ROWS:
                del self._rows[next(iter(self._rows))]
        self._unwritten.put(row)

    # --- the file ------------------------------------------------------------------------------------------

    def _read(self) -> list[_Row]:
        try:
            with self._database() as database:
                found = database.execute(f"SELECT {_COLUMN_NAMES} FROM loads ORDER BY at, rowid").fetchall()
        except (sqlite3.Error, OSError) as error:
            self._warn(error)
            if getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                self._set_aside()
            return []
        return [row for row in map(_row_of, found) if row is not None]

    def _write_on(self) -> None:
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
        """One transaction. Opened anew each time: loads are rare, and a file that is lost or replaced does no harm."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(self._file, timeout=BUSY_SECONDS)) as database, database:
            database.execute("PRAGMA journal_mode = WAL")
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, SCHEMA_VERSION):
                raise sqlite3.DatabaseError(f"it has version {version} of its tables, this program {SCHEMA_VERSION}")
            if version == 0:
                database.executescript(_SCHEMA)
            yield database

    def _set_aside(self) -> None:
        """Out of the way of a new one: nothing in it is worth a person's time."""
        with contextlib.suppress(OSError):
            self._file.replace(self._file.with_name(self._file.name + ".broken"))

    def _warn(self, error: Exception) -> None:
        log.warning("history %s is not used: %s; what loads take is not kept for the next start", self._file, error)


def _names(gpus: Sequence[str], need: Estimate) -> Iterator[str]:
    """The model of each GPU; a device nobody named stands for itself."""
    yield from gpus
    yield from (f"device {number}" for number in range(len(gpus), len(need.devices)))


def _overheads_of(rows: Iterable[_Row]) -> dict[str, int]:
    """The median of the last few measured loads, the upper one of two: a single odd reading decides nothing."""
    seen = defaultdict(list)
    for row in rows:
        if row.is_measured:
            for name, overhead in _overheads(row):
                seen[name].append(overhead)
    return {name: statistics.median_high(overheads[-OVERHEADS:]) for name, overheads in seen.items()}


def _overheads(row: _Row) -> Iterator[tuple[str, int]]:
    devices = zip(_names(row.start.gpus, row.need), row.need.devices, strict=False)
    for name, memory in ((HOST, row.need.host), *devices):
        if memory.overhead_bytes:
            yield name, memory.overhead_bytes


def _with_shown(device: DeviceMemory, shown_bytes: int | None) -> DeviceMemory:
    if shown_bytes is None:
        return device
    buffers = replace(device, overhead_bytes=0).total_bytes
    return replace(device, overhead_bytes=max(0, shown_bytes - buffers))


def _columns(row: _Row) -> tuple[object, ...]:
    start, need = row.start, json.dumps(asdict(row.need))
    return (start.key, row.at, start.model, start.engine, json.dumps(start.gpus), row.is_measured, need)


def _row_of(columns: tuple[str, int, str, str, str, int, str]) -> _Row | None:
    """A row as it was written; None for one that somebody else wrote."""
    key, at, model, engine, gpus, is_measured, text = columns
    try:
        need = json.loads(text)
        host, *devices = (
            DeviceMemory(**{name: _size(size) for name, size in memory.items()})
            for memory in (need["host"], *need["devices"])
        )
        estimate = Estimate(tuple(devices), host, Confidence(need["confidence"]), tuple(need["notes"]))
        return _Row(Start(key, model, engine, tuple(json.loads(gpus))), at, bool(is_measured), estimate)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        log.warning("history: the row of %s is unreadable and passed over", model)
        return None


def _size(size: object) -> int:
    if type(size) is not int or not 0 <= size < _MOST_BYTES:
        raise ValueError(size)
    return size
