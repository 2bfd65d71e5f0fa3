"""The results of one kind of machine and one day: rows, written after each, so that a run that ends goes on later."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from bench.gpu.stopping import CannotGoOn

Row = dict[str, Any]
_OF_ONE_KIND = ("kind", "gpu", "driver", "engine", "llama_cpp")  # rows that differ in these are never in one file


class Results:
    """`results.json` in a folder; its one writer."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        """Raises CannotGoOn if the folder has the results of something else."""
        self.folder = folder
        self._file = folder / "results.json"
        said = self._read()
        for name in _OF_ONE_KIND:
            if said and said["machine"].get(name) != facts.get(name):
                there, here = said["machine"].get(name), facts.get(name)
                raise CannotGoOn(f"{folder} has results of {name} {there!r}, and here it is {here!r}: move it away")
        self.machine = {**said.get("machine", {}), **facts}
        self.rows: list[Row] = said.get("rows", [])

    def has(self, key: str) -> bool:
        """Whether this was measured. What failed is tried again."""
        return any(row["key"] == key and "error" not in row for row in self.rows)

    def add(self, row: Row) -> None:
        self.rows = [each for each in self.rows if each["key"] != row["key"]] + [row]
        self.write()

    def write(self, summary: dict[str, Any] | None = None) -> None:
        """In one step: whoever reads it, and whenever this is killed, finds it whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        said = {"machine": self.machine, **({"summary": summary} if summary else {}), "rows": self.rows}
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps(said, indent=1) + "\n")
        os.replace(partial, self._file)

    def _read(self) -> dict[str, Any]:
        try:
            said = json.loads(self._file.read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise CannotGoOn(f"{self._file} is not JSON: {error}; move it away") from error
        if not _is_ours(said):
            raise CannotGoOn(f"{self._file} is none of this kit's: move it away")
        return dict(said)


def _is_ours(said: object) -> bool:
    if not isinstance(said, dict) or not isinstance(said.get("machine"), dict):
        return False
    rows = said.get("rows")
    return isinstance(rows, list) and all(isinstance(row, dict) and "key" in row for row in rows)


def folder_name(name: str, date: str) -> str:
    """`nvidia-h100-80gb-hbm3-2026-11-26`, `cpu-rehearsal-2026-11-26`."""
    return f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}-{date}"
