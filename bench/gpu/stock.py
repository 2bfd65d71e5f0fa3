"""The models on the disk: which are there, which are written, and which make room for others."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.gpu.model_file import is_written, write_model
from bench.gpu.plan import to_remove
from bench.gpu.shapes import Shape
from bench.gpu.stopping import CannotGoOn, Deadline

RESERVE_BYTES = 2 * 1024**3  # left free on the disk


class Stock:
    """A folder of models."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, shape: Shape) -> Path:
        return self._folder / shape.file_name

    def has(self, shape: Shape) -> bool:
        return is_written(shape, self.path(shape))

    @property
    def free_bytes(self) -> int:
        """What may still be written."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return max(0, shutil.disk_usage(self._folder).free - RESERVE_BYTES)

    @property
    def room_bytes(self) -> int:
        """What could be written if nothing were there yet."""
        return self.free_bytes + sum(each.stat().st_size for each in self._folder.glob("*.gguf"))

    def write(self, shape: Shape, deadline: Deadline) -> None:
        """Raises OutOfTime, CannotGoOn."""
        deadline.check()
        print(f"  writing {shape.label}, {shape.data_bytes / 1024**3:.2f} GiB", flush=True)
        try:
            write_model(shape, self.path(shape), deadline)
        except OSError as error:
            raise CannotGoOn(f"{self.path(shape)} cannot be written: {error.strerror}") from error

    def make_room(self, wanted: Shape, plan: Iterable[Shape], measured: Sequence[Shape]) -> bool:
        """Remove what was measured until the wanted one has room; False if it has none even then."""
        there = [each for each in plan if self.path(each).is_file()]
        removed = to_remove(there, wanted, measured, self.free_bytes)
        for each in removed or ():
            print(f"  removing {each.label}, which was measured", flush=True)
            self.path(each).unlink()
        return removed is not None
