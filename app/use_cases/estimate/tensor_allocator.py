"""Tensor allocator: where ggml-alloc places the tensors of a graph, and so how large a compute buffer becomes.

A tensor goes into the smallest gap that holds it, into the last one if several are equally small, else at the end
(llama.cpp b11549, ggml-alloc.c: ggml_dyn_tallocr_alloc and ggml_dyn_tallocr_free_bytes).
"""

from __future__ import annotations

from bisect import bisect_left

Allocation = tuple[int, int]  # offset and size

EMPTY: Allocation = (0, 0)
_ALIGNMENT = 128  # of CUDA's buffers


class TensorAllocator:
    """The compute buffer of one device. `peak` is the size that it needs."""

    __slots__ = ("_end", "_gaps", "peak")

    def __init__(self) -> None:
        self._gaps: list[Allocation] = []  # by offset
        self._end = 0
        self.peak = 0

    def allocate(self, size: int) -> Allocation:
        """A place for a tensor of `size` bytes; EMPTY for none."""
        if not size:
            return EMPTY
        size += -size % _ALIGNMENT
        gaps = self._gaps
        fitting = [(gap, -offset) for offset, gap in gaps if gap >= size]
        if not fitting:
            return self._append(size)
        gap, before = min(fitting)
        place = gaps.index((-before, gap))
        if gap == size:
            del gaps[place]
        else:
            gaps[place] = (size - before, gap - size)
        return -before, size

    def _append(self, size: int) -> Allocation:
        offset = self._end
        self._end = end = offset + size
        if end > self.peak:
            self.peak = end
        return offset, size

    def free(self, *allocations: Allocation) -> None:
        """In this order; neighbouring gaps become one."""
        for each in allocations:
            if each[1]:
                self._free(each)

    def _free(self, allocation: Allocation) -> None:
        gaps, (offset, size) = self._gaps, allocation
        stop = offset + size
        place = bisect_left(gaps, allocation)
        if place < len(gaps) and gaps[place][0] == stop:
            stop += gaps.pop(place)[1]
        if place and sum(gaps[place - 1]) == offset:
            place -= 1
            offset = gaps.pop(place)[0]
        if stop == self._end:
            self._end = offset
        else:
            gaps.insert(place, (offset, stop - offset))
