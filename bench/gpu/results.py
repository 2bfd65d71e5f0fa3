"""The results of one kind of machine and one date, saved after each row so that an interrupted run can continue."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from workers.engine_builds.stopping import CannotContinue

Row = dict[str, Any]
_OF_ONE_KIND = ("kind", "gpu", "driver", "engine", "llama_cpp")  # rows that differ in these are never in the same file


class Results:
    """`results.json` in a folder; this class alone writes it."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        """Raises CannotContinue if the folder contains results of another kind."""
        self.folder = folder
        self._file = folder / "results.json"
        saved = self._read()
        for name in _OF_ONE_KIND:
            if saved and saved["machine"].get(name) != facts.get(name):
                old, new = saved["machine"].get(name), facts.get(name)
                raise CannotContinue(f"{folder} has results with {name} {old!r}, this run has {new!r}: move it away")
        self.machine = {**saved.get("machine", {}), **facts}
        self.rows: list[Row] = saved.get("rows", [])

    def has(self, key: str) -> bool:
        """Whether this row was measured successfully."""
        return any(row["key"] == key and "error" not in row for row in self.rows)

    def add(self, row: Row) -> None:
        self.rows = [each for each in self.rows if each["key"] != row["key"]] + [row]
        self.write()

    def write(self, summary: dict[str, Any] | None = None) -> None:
        """Write the file atomically."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"machine": self.machine, **({"summary": summary} if summary else {}), "rows": self.rows}
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(partial, self._file)

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self._file.read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise CannotContinue(f"{self._file} is not JSON: {error}; move it away") from error
        if not _is_valid(content):
            raise CannotContinue(f"{self._file} is not a results file of this kit: move it away")
        return dict(content)


def _is_valid(content: object) -> bool:
    if not isinstance(content, dict) or not isinstance(content.get("machine"), dict):
        return False
    rows = content.get("rows")
    return isinstance(rows, list) and all(isinstance(row, dict) and "key" in row for row in rows)


def folder_name(name: str, date: str) -> str:
    """`nvidia-h100-80gb-hbm3-2026-11-26`, `cpu-rehearsal-2026-11-26`."""
    return f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}-{date}"
