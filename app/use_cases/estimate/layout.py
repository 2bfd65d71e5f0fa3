"""Layout: one device's buffer while a graph is laid out, with what stays in it from one layer to the next."""

from __future__ import annotations

from app.entities.launch import ModelOptions
from app.use_cases.estimate.arena import Arena, Room
from app.use_cases.estimate.graph_rules import Work
from app.use_cases.estimate.kv_cache import CacheCells, is_quantized
from app.use_cases.model_shape.layers import Layer
from app.use_cases.model_shape.shape import ModelShape

# Positions are added to the embeddings; the other architectures rotate queries and keys.
WITHOUT_ROTATION = frozenset({"bloom", "gpt2", "jais", "mpt", "refact", "starcoder"})
_ROTATED_HEADS = (
    64  # heads of a multiple of this are rotated before they are quantized (llama-kv-cache.cpp, attn_rot_k)
)


class Layout:
    """`layer` is the one being laid out, `residual` the tensor that goes from layer to layer."""

    def __init__(self, shape: ModelShape, options: ModelOptions, w: Work, cells: CacheCells, flash: bool) -> None:
        self.shape, self.options, self.w, self.cells, self.flash = shape, options, w, cells, flash
        self.arena = Arena()
        self.take, self.free = self.arena.take, self.arena.free
        self.layer: Layer = shape.each_layer[0]
        self.is_in_ram = False  # its weights
        self.has_cache_in_ram = False
        self.residual: Room | None = None
        self.norm: Room | None = None  # of the first layer, if it was computed on the device before
        self.architecture = shape.graph.architecture
        self.is_parallel = shape.graph.is_parallel
        self.rotates = self.architecture not in WITHOUT_ROTATION
        self.has_rope_weights = shape.per_device_bytes > 0
        self.rotates_k = is_quantized(options.cache_type_k) and shape.graph.k_head % _ROTATED_HEADS == 0
        self.rotates_v = is_quantized(options.cache_type_v) and shape.graph.v_head % _ROTATED_HEADS == 0
        self._masks: set[bool] = set()
        self.has_positions = not self.rotates
        self._has_indexes = False

    def begin(self, layer: Layer, is_in_ram: bool) -> None:
        """The graph's inputs: embeddings, and those of images; one of these stays."""
        take, e = self.take, self.w.e
        images, mixed, slots, self.residual = take(e), take(e), take(8 * self.w.tokens), take(e)
        if not is_in_ram:
            self._begin_split(layer)
        take(e)
        self.free(images, mixed, slots)

    def begin_after_another(self, layer: Layer) -> None:
        """What comes from the device before. That also computes the first norm, which has no weights."""
        if "attn_norm" in layer.weights:
            self.norm = self.take(self.w.e)
        else:
            self.residual = self.take(self.w.e)
        self._begin_split(layer)
        if self.residual is None and self.options.kv_offload:
            self.residual = self.take(self.w.e)  # else in the split that has the cache

    def _begin_split(self, layer: Layer) -> None:
        """The first split's inputs, which are attention's too if its cache is here."""
        self.take_positions()
        if self.options.kv_offload:
            self.take_indexes()
            self.take_mask(layer)

    def weight(self, kind: str) -> Room:
        """Its copy, or nothing if it is on the device."""
        return self.take(self.layer.weights.get(kind, 0) if self.is_in_ram else 0)

    def times(self, kind: str, size: int, *read: Room) -> Room:
        """A product with a weight, after which what it read is gone."""
        weight = self.weight(kind)
        found = self.take(size)
        self.free(weight, *read)
        return found

    def instead_of(self, *read: Room, size: int) -> Room:
        """A tensor computed from these, which are gone."""
        found = self.take(size)
        self.free(*read)
        return found

    def take_positions(self) -> None:
        if not self.has_positions:
            self.has_positions = True
            self.take(4 * self.w.tokens)

    def take_indexes(self) -> None:
        """Where keys and values go in the cache. Without flash attention V is transposed: each value has an index."""
        if not self._has_indexes:
            self._has_indexes = True
            self.take(8 * self.w.tokens)
            self.take(8 * self.w.tokens * (self.shape.v_width_max if self.options.flash_attn == "off" else 1))

    def take_mask(self, layer: Layer) -> None:
        if layer.is_windowed not in self._masks:
            self._masks.add(layer.is_windowed)
            self.take(self.count(layer) * self.w.tokens * (2 if self.flash else 4))

    def count(self, layer: Layer) -> int:
        """Cells that its attention reads."""
        return self.cells.window if layer.is_windowed else self.cells.base
