"""LoadRates: how fast models were loaded, by file system, mode and whether the file came from the disk.

Servers' threads note each load and write the file, under a lock: loads are rare. A file that cannot be read or written
costs a warning.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import threading
from pathlib import Path

from app.entities.load import LoadReport

log = logging.getLogger(__name__)

KEPT = 5  # loads, of each kind
MIN_BYTES = 256 * 1024**2  # of smaller files, starting the engine takes longer than reading


class LoadRates:
    """Owner of `load-rates.json`: bytes per second of the last loads, by kind of load."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()  # guards the rates and the file
        self._rates = _read(file)

    def usual(self, load: LoadReport, where: str) -> float | None:
        """Bytes per second of earlier loads like this one, the median; None if there was none."""
        with self._lock:
            known = self._rates.get(_kind(load, where))
            return statistics.median(known) if known else None

    def note(self, load: LoadReport, where: str) -> None:
        """Remember it. `where`: what its weights were loaded to."""
        if load.size_bytes < MIN_BYTES or not load.source:
            return
        with self._lock:
            kind = _kind(load, where)
            self._rates[kind] = [*self._rates.get(kind, []), round(load.bytes_per_second)][-KEPT:]
            self._write()

    def _write(self) -> None:
        partial = self._file.with_suffix(".new")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(self._rates, indent=2) + "\n")
            os.replace(partial, self._file)
        except OSError as error:
            log.warning("cannot save the rates of loads (%s): %s", self._file, error)


def _kind(load: LoadReport, where: str) -> str:
    return f"{load.file_system}, {where}, {load.mode}, {load.source}"


def _read(file: Path) -> dict[str, list[float]]:
    try:
        known = json.loads(file.read_text())
        return {str(kind): [float(rate) for rate in rates if float(rate) > 0][-KEPT:] for kind, rates in known.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        log.warning("cannot read the rates of loads (%s): %s", file, error)
        return {}
