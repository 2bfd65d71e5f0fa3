"""Graph replay: the allocations of one device's graph, made again in llama.cpp's order, without the engine."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from app.use_cases.estimate.kv_cache import is_quantized
from app.use_cases.estimate.tensor_allocator import EMPTY, Allocation, TensorAllocator
from app.use_cases.estimate.ubatch import Ubatch
from app.use_cases.model_shape.layers import Layer

# Heads of a multiple of this size are rotated before they are quantized (llama-kv-cache.cpp, attn_rot_k).
_ROTATED_HEADS = 64


class GraphReplay:
    """The state of a replay: `layer` is the current one, `residual` the tensor that goes from layer to layer."""

    def __init__(self, ubatch: Ubatch) -> None:
        self.shape, self.options, self.w, self.cells = ubatch.shape, ubatch.options, ubatch.w, ubatch.cells
        self.flash, shape, options = ubatch.flash, ubatch.shape, ubatch.options
        self.allocator = TensorAllocator()
        self.allocate, self.free = self.allocator.allocate, self.allocator.free
        self.layer: Layer = shape.each_layer[0]
        # Of the current layer:
        self.in_ram: Collection[str] = ()  # kinds of its weights
        self.has_weights_in_ram = self.has_cache_in_ram = False  # all of its weights
        self.last_copied = ""  # the last of the weights in RAM
        self.after_copies: Sequence[Layer] = ()  # layers computed in the same split as what follows that weight
        self.residual: Allocation | None = None
        self.norm: Allocation | None = None  # of the first layer, if the device before has computed it
        self.architecture = shape.graph.architecture
        self.is_parallel = shape.graph.is_parallel
        self.has_rope_weights = shape.per_device_bytes > 0
        self.k_rotation_bytes = _rotation_bytes(options.cache_type_k, shape.graph.k_head, is_widest=True)
        self.v_rotation_bytes = _rotation_bytes(options.cache_type_v, shape.graph.v_head, is_widest=False)
        # Graph inputs that stay until the end once they are allocated: of windowed layers, and of the others.
        self.has_positions = False
        self._cache_indexes: frozenset[bool] = frozenset()
        self._masks: frozenset[bool] = frozenset()
        self._rotations: frozenset[tuple[str, bool]] = frozenset()  # of K and V

    @property
    def state(self) -> tuple[Any, ...]:
        """What the allocations of the next layer depend on."""
        inputs = self.has_positions, self._cache_indexes, self._masks, self._rotations
        return self.allocator.state, self.residual, self.norm, inputs

    @state.setter
    def state(self, state: tuple[Any, ...]) -> None:
        self.allocator.state, self.residual, self.norm, inputs = state
        self.has_positions, self._cache_indexes, self._masks, self._rotations = inputs

    @property
    def peak_bytes(self) -> int:
        return self.allocator.peak

    def begin(self, layers: Sequence[Layer]) -> None:
        """The graph's inputs: embeddings of tokens and images. The residual stays.

        `layers`: those of the first split; none if its weights are in RAM."""
        allocate, e = self.allocate, self.w.e
        images, mixed, slots, self.residual = allocate(e), allocate(e), allocate(8 * self.w.tokens), allocate(e)
        if layers:
            self.begin_split(layers)
        allocate(e)
        self.free(images, mixed, slots)

    def begin_after_another(self, layers: Sequence[Layer]) -> None:
        """What comes from another device, which has also computed the first norm: that has no weights."""
        self.residual = None
        if "attn_norm" in layers[0].weights:
            self.norm = self.allocate(self.w.e)
        else:
            self.residual = self.allocate(self.w.e)
        self.begin_split(layers)
        if self.residual is None and self.options.kv_offload:
            self.residual = self.allocate(self.w.e)  # else in the split that has the cache

    def begin_split(self, layers: Sequence[Layer]) -> None:
        """Inputs of a split with these layers; those of attention are among them if its cache is on the device."""
        for layer in layers:
            self.allocate_positions(layer)
            self.allocate_rotation("k", layer)
            self.allocate_rotation("v", layer)
            if self.options.kv_offload:
                self.allocate_cache_indexes(layer)
                self.allocate_mask(layer)

    def weight(self, kind: str) -> Allocation:
        """The copy of a weight in RAM, with which a split begins; empty if the weight is on the device."""
        if kind not in self.in_ram:
            return EMPTY
        copied = self.allocate(self.layer.weights.get(kind, 0))
        if kind == self.last_copied:
            self.begin_split(self.after_copies)
        return copied

    def compute(self, size: int, *inputs: Allocation) -> Allocation:
        """A new tensor; `inputs` are freed after it, because nothing else reads them."""
        result = self.allocate(size)
        self.free(*inputs)
        return result

    def mul_mat(self, kind: str, size: int, *inputs: Allocation) -> Allocation:
        """The product with a weight, as `compute`."""
        weight = self.weight(kind)
        return self.compute(size, weight, *inputs)

    def allocate_positions(self, layer: Layer) -> None:
        if layer.has_rope and not self.has_positions:
            self.has_positions = True
            self.allocate(4 * self.w.tokens)

    def allocate_rotation(self, kind: str, layer: Layer) -> None:
        """The matrix with which K or V is rotated, if it is."""
        size = self.k_rotation_bytes if kind == "k" else self.v_rotation_bytes
        if size and (kind, layer.is_windowed) not in self._rotations:
            self._rotations |= {(kind, layer.is_windowed)}
            self.allocate(size)

    def allocate_cache_indexes(self, layer: Layer) -> None:
        """Which cells K and V are written to. Without flash attention V is transposed: each value has an index."""
        if layer.is_windowed not in self._cache_indexes:
            self._cache_indexes |= {layer.is_windowed}
            self.allocate(8 * self.w.tokens)
            self.allocate(8 * self.w.tokens * (self.shape.v_width_max if self.options.flash_attn == "off" else 1))

    def allocate_mask(self, layer: Layer) -> None:
        if layer.is_windowed not in self._masks:
            self._masks |= {layer.is_windowed}
            self.allocate(self.cells_read(layer) * self.w.tokens * (2 if self.flash else 4))

    def cells_read(self, layer: Layer) -> int:
        """Cells of the cache that the layer's attention reads."""
        return self.cells.window if layer.is_windowed else self.cells.base


def _rotation_bytes(cache_type: str, head: int, is_widest: bool) -> int:
    """Of a square matrix as wide as the largest power of two that divides the heads, or of 64."""
    if not is_quantized(cache_type) or head % _ROTATED_HEADS:
        return 0
    width = head & -head if is_widest else _ROTATED_HEADS
    return 4 * width * width
