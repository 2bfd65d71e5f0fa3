"""Graph replay: the allocations of one device's graph, made again in llama.cpp's order, without the engine."""

from __future__ import annotations

from app.entities.launch import ModelOptions
from app.use_cases.estimate.graph_rules import Work
from app.use_cases.estimate.kv_cache import CacheCells, is_quantized
from app.use_cases.estimate.tensor_allocator import Allocation, TensorAllocator
from app.use_cases.model_shape.layers import Layer
from app.use_cases.model_shape.shape import ModelShape

# Positions are added to the embeddings; the other architectures rotate queries and keys (RoPE).
WITHOUT_ROPE = frozenset({"bloom", "gpt2", "jais", "mpt", "refact", "starcoder"})
# Heads of a multiple of this size are rotated before they are quantized (llama-kv-cache.cpp, attn_rot_k).
_ROTATED_HEADS = 64


class GraphReplay:
    """The state of a replay: `layer` is the current one, `residual` the tensor that goes from layer to layer."""

    def __init__(self, shape: ModelShape, options: ModelOptions, w: Work, cells: CacheCells, flash: bool) -> None:
        self.shape, self.options, self.w, self.cells, self.flash = shape, options, w, cells, flash
        self._allocator = TensorAllocator()
        self.allocate, self.free = self._allocator.allocate, self._allocator.free
        self.layer: Layer = shape.each_layer[0]
        self.has_weights_in_ram = self.has_cache_in_ram = False  # the current layer
        self.residual: Allocation | None = None
        self.norm: Allocation | None = None  # of the first layer, if the device before has computed it
        self.architecture = shape.graph.architecture
        self.is_parallel = shape.graph.is_parallel
        self.uses_rope = self.architecture not in WITHOUT_ROPE
        self.has_rope_weights = shape.per_device_bytes > 0
        self.rotates_k = is_quantized(options.cache_type_k) and shape.graph.k_head % _ROTATED_HEADS == 0
        self.rotates_v = is_quantized(options.cache_type_v) and shape.graph.v_head % _ROTATED_HEADS == 0
        # Graph inputs that stay until the end once they are allocated.
        self.has_positions = not self.uses_rope
        self._has_cache_indexes = False
        self._masks: set[bool] = set()

    @property
    def peak_bytes(self) -> int:
        return self._allocator.peak

    def begin(self, layer: Layer, has_weights_in_ram: bool) -> None:
        """The graph's inputs: embeddings of tokens and images. The residual stays."""
        allocate, e = self.allocate, self.w.e
        images, mixed, slots, self.residual = allocate(e), allocate(e), allocate(8 * self.w.tokens), allocate(e)
        if not has_weights_in_ram:
            self._begin_split(layer)
        allocate(e)
        self.free(images, mixed, slots)

    def begin_after_another(self, layer: Layer) -> None:
        """What comes from the device before, which has also computed the first norm: that has no weights."""
        if "attn_norm" in layer.weights:
            self.norm = self.allocate(self.w.e)
        else:
            self.residual = self.allocate(self.w.e)
        self._begin_split(layer)
        if self.residual is None and self.options.kv_offload:
            self.residual = self.allocate(self.w.e)  # else in the split that has the cache

    def _begin_split(self, layer: Layer) -> None:
        """Inputs of the first split; those of attention are among them if its cache is on the device."""
        self.allocate_positions()
        if self.options.kv_offload:
            self.allocate_cache_indexes()
            self.allocate_mask(layer)

    def weight(self, kind: str) -> Allocation:
        """The copy of a weight in RAM; empty if the weight is on the device."""
        return self.allocate(self.layer.weights.get(kind, 0) if self.has_weights_in_ram else 0)

    def compute(self, size: int, *inputs: Allocation) -> Allocation:
        """A new tensor; `inputs` are freed after it, because nothing else reads them."""
        result = self.allocate(size)
        self.free(*inputs)
        return result

    def mul_mat(self, kind: str, size: int, *inputs: Allocation) -> Allocation:
        """The product with a weight, as `compute`."""
        weight = self.weight(kind)
        return self.compute(size, weight, *inputs)

    def allocate_positions(self) -> None:
        if not self.has_positions:
            self.has_positions = True
            self.allocate(4 * self.w.tokens)

    def allocate_cache_indexes(self) -> None:
        """Which cells K and V are written to. Without flash attention V is transposed: each value has an index."""
        if not self._has_cache_indexes:
            self._has_cache_indexes = True
            self.allocate(8 * self.w.tokens)
            self.allocate(8 * self.w.tokens * (self.shape.v_width_max if self.options.flash_attn == "off" else 1))

    def allocate_mask(self, layer: Layer) -> None:
        if layer.is_windowed not in self._masks:
            self._masks.add(layer.is_windowed)
            self.allocate(self.cells_read(layer) * self.w.tokens * (2 if self.flash else 4))

    def cells_read(self, layer: Layer) -> int:
        """Cells of the cache that the layer's attention reads."""
        return self.cells.window if layer.is_windowed else self.cells.base
