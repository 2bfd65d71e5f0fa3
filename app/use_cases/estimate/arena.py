"""Arena: where ggml's graph allocator puts tensors, which decides how much memory a graph needs beyond those alive.

As ggml_dyn_tallocr_alloc and ..._free_bytes do it (llama.cpp b11549, ggml-alloc.c): a tensor goes into the smallest gap
that holds it, of equal ones the last, else to the end.
"""

from __future__ import annotations

from bisect import bisect_left

Room = tuple[int, int]  # offset and size of a tensor

NOTHING: Room = (0, 0)
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
        if not size:
            return NOTHING
        size += -size % _ALIGNMENT
        gaps = self._gaps
        fitting = [(gap, -offset) for offset, gap in gaps if gap >= size]
        if not fitting:
            offset = self._end
            self._end = end = offset + size
            if end > self.peak:
                self.peak = end
            return offset, size
        gap, before = min(fitting)
        place = gaps.index((-before, gap))
        if gap == size:
            del gaps[place]
        else:
            gaps[place] = (size - before, gap - size)
        return -before, size

    def free(self, *tensors: Room) -> None:
        """Give back the room of these tensors, in this order."""
        gaps = self._gaps
        for room in tensors:
            offset, size = room
            if not size:
                continue
            stop = offset + size
            place = bisect_left(gaps, room)
            if place < len(gaps) and gaps[place][0] == stop:
                stop += gaps.pop(place)[1]
            if place and sum(gaps[place - 1]) == offset:
                place -= 1
                offset = gaps.pop(place)[0]
            if stop == self._end:
                self._end = offset
            else:
                gaps.insert(place, (offset, stop - offset))
