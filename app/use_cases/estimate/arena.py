"""Arena: where ggml's graph allocator puts tensors, which decides how much memory a graph needs beyond those alive.

As ggml_dyn_tallocr_alloc and ..._free_bytes do it (llama.cpp b11549, ggml-alloc.c): a tensor goes into the smallest gap
that holds it, of equal ones the last, else to the end.
"""

from __future__ import annotations

from bisect import insort

Room = tuple[int, int]  # offset and size of a tensor

_ALIGNMENT = 128  # of CUDA's buffers


class Arena:
    """The buffer of one device while a graph is laid out. `peak` is its size."""

    __slots__ = ("_end", "_gaps", "peak")

    def __init__(self) -> None:
        self._gaps: list[Room] = []  # in order
        self._end = 0
        self.peak = 0

    def take(self, size: int) -> Room:
        """Room for a tensor: to be given back to `free`."""
        size += -size % _ALIGNMENT
        best = -1
        best_size = 0
        for i, (_, gap) in enumerate(self._gaps):
            if gap >= size and (best < 0 or gap <= best_size):
                best, best_size = i, gap
        if best < 0:
            offset = self._end
            self._end += size
            self.peak = max(self.peak, self._end)
            return offset, size
        offset = self._gaps[best][0]
        if best_size == size:
            del self._gaps[best]
        else:
            self._gaps[best] = (offset + size, best_size - size)
        return offset, size

    def free(self, *tensors: Room) -> None:
        """Give back the room of these tensors, in this order."""
        for offset, size in tensors:
            if size:
                self._free(offset, size)

    def _free(self, offset: int, size: int) -> None:
        gaps, stop = self._gaps, offset + size
        for i, (start, length) in enumerate(gaps):
            if start == stop:
                del gaps[i]
                stop += length
                break
        for i, (start, length) in enumerate(gaps):
            if start + length == offset:
                del gaps[i]
                offset = start
                break
        if stop == self._end:
            self._end = offset
        else:
            insort(gaps, (offset, stop - offset))
