"""The model files on disk: which exist, which are written, and which are deleted to free space."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.gpu.model_file import is_written, write_model
from bench.gpu.plan import to_remove
from bench.gpu.shapes import Shape
from workers.engine_builds.stopping import CannotContinue, Deadline

RESERVE_BYTES = 2 * 1024**3  # kept free on the disk


class Stock:
    """A folder of model files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, shape: Shape) -> Path:
        return self._folder / shape.file_name

    def has(self, shape: Shape) -> bool:
        return is_written(shape, self.path(shape))

    @property
    def free_bytes(self) -> int:
        """Bytes that can still be written."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return max(0, shutil.disk_usage(self._folder).free - RESERVE_BYTES)

    @property
    def capacity_bytes(self) -> int:
        """Bytes that could be written if the folder were empty."""
        return self.free_bytes + sum(each.stat().st_size for each in self._folder.glob("*.gguf"))

    def write(self, shape: Shape, deadline: Deadline) -> None:
        """Write the model. Raises OutOfTime, CannotContinue."""
        deadline.check()
        print(f"  writing {shape.label}, {shape.data_bytes / 1024**3:.2f} GiB", flush=True)
        try:
            write_model(shape, self.path(shape), deadline)
        except OSError as error:
            raise CannotContinue(f"cannot write {self.path(shape)}: {error.strerror}") from error

    def free_space(self, wanted: Shape, plan: Iterable[Shape], measured: Sequence[Shape]) -> bool:
        """Delete measured models until `wanted` fits; False if it still does not."""
        written = [each for each in plan if self.path(each).is_file()]
        removed = to_remove(written, wanted, measured, self.free_bytes)
        for each in removed or ():
            print(f"  deleting {each.label}, already measured", flush=True)
            self.path(each).unlink()
        return removed is not None
