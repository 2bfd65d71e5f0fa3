"""Tensor allocator: where ggml-alloc places the tensors of a graph, and so how large a compute buffer becomes.

A tensor goes into the smallest gap that holds it, into the last one if several are equally small, else at the end
(llama.cpp b11549, ggml-alloc.c: ggml_dyn_tallocr_alloc and ggml_dyn_tallocr_free_bytes).
"""

from __future__ import annotations

from bisect import bisect_left

Allocation = tuple[int, int]  # offset and size
State = tuple[int, tuple[int, ...], tuple[int, ...]]  # where a tensor without a gap goes; offsets and sizes of the gaps

EMPTY: Allocation = (0, 0)
_ALIGNMENT = 128  # of CUDA's buffers


class TensorAllocator:
    """The compute buffer of one device. `peak` is the size that it needs."""

    __slots__ = ("_end", "_offsets", "_sizes", "peak")

    def __init__(self) -> None:
        self._offsets: list[int] = []  # of the gaps, in this order
        self._sizes: list[int] = []  # of the same
        self._end = 0
        self.peak = 0

    @property
    def state(self) -> State:
        return self._end, tuple(self._offsets), tuple(self._sizes)

    @state.setter
    def state(self, state: State) -> None:
        self._end, self._offsets, self._sizes = state[0], list(state[1]), list(state[2])

    def allocate(self, size: int) -> Allocation:
        """A place for a tensor of `size` bytes; EMPTY for none."""
        if not size:
            return EMPTY
        size += -size % _ALIGNMENT
        sizes, best, place = self._sizes, 0, -1
        for index, gap in enumerate(sizes):
            if gap >= size and (place < 0 or gap <= best):
                best, place = gap, index
        if place < 0:
            return self._append(size)
        offsets = self._offsets
        offset = offsets[place]
        if best == size:
            del offsets[place], sizes[place]
        else:
            offsets[place], sizes[place] = offset + size, best - size
        return offset, size

    def _append(self, size: int) -> Allocation:
        offset = self._end
        self._end = end = offset + size
        if end > self.peak:
            self.peak = end
        return offset, size

    def free(self, *allocations: Allocation) -> None:
        """In this order; neighbouring gaps become one."""
        for offset, size in allocations:
            if size:
                self._free(offset, size)

    def _free(self, offset: int, size: int) -> None:
        offsets, sizes = self._offsets, self._sizes
        place = bisect_left(offsets, offset)
        if place < len(offsets) and offsets[place] == offset + size:
            size += sizes[place]
            del offsets[place], sizes[place]
        if place and offsets[place - 1] + sizes[place - 1] == offset:
            place -= 1
            offset = offsets[place]
            size += sizes[place]
            del offsets[place], sizes[place]
        if offset + size == self._end:
            self._end = offset
        else:
            offsets.insert(place, offset)
            sizes.insert(place, size)
