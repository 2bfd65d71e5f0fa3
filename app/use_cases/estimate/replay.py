"""Replay: a device's compute buffer, found by laying out the graph's first layers as ggml-alloc does.

With weights or a cache in RAM, the tensors copied in are so large that the gaps between the others decide where they
fit. The order is that of the graph after its scheduler (llama.cpp b11549: ggml-backend.cpp,
ggml_backend_sched_split_graph; llama-graph.cpp, build_qkv, build_attn, build_ffn): what a split copies in is taken at
its start, in the order of its nodes, and a node's operands are freed after it. A layer is like the one before it, so
that a few are enough.
"""

from __future__ import annotations

from app.entities.launch import ModelOptions
from app.use_cases.estimate.arena import Arena, Room
from app.use_cases.estimate.graph_rules import Work
from app.use_cases.estimate.kv_cache import CacheCells, is_quantized, row_bytes
from app.use_cases.model_shape.layer_weights import FEED_FORWARD
from app.use_cases.model_shape.shape import ModelShape

_POSITIONS_ADDED = frozenset({"bloom", "gpt2", "jais", "mpt", "refact", "starcoder"})  # no rotary positions
_KEYS_BEFORE_VALUES = frozenset({"cohere2", "command-r"})
_INTO_RESIDUAL = frozenset({"phi3"})  # ggml_add(residual, cur): the sum takes the place of its first operand
_ROTATED_HEADS = 64  # heads of a multiple of this are rotated before they are quantized (llama-kv-cache.cpp, attn_rot_k)


class Replay:
    """The layout of one device. `residual` is the tensor that goes from layer to layer."""

    def __init__(self, shape: ModelShape, options: ModelOptions, w: Work, cells: CacheCells, flash: bool) -> None:
        self.shape, self.options, self.w, self.cells, self.flash = shape, options, w, cells, flash
        self.arena = Arena()
        self.residual: Room | None = None
        self._norm: Room | None = None  # of the first layer, if it was computed on the device before
        self._masks: set[bool] = set()
        self._has_positions = shape.graph.architecture in _POSITIONS_ADDED
        self._has_indexes = False
        self._rope_weights = shape.per_device_bytes > 0

    @property
    def peak(self) -> int:
        return self.arena.peak

    def begin_first(self, layer: int, is_in_ram: bool) -> None:
        """The graph's inputs: embeddings, and those of images; one of these stays."""
        take, e = self.arena.take, self.w.e
        images, mixed, slots, self.residual = take(e), take(e), take(8 * self.w.tokens), take(e)
        if not is_in_ram:
            self._begin(layer)
        take(e)
        self.arena.free(images, mixed, slots)

    def begin_other(self, layer: int) -> None:
        """What comes from the device before. That also computes the first norm, as it has no weights."""
        if "attn_norm" not in self.shape.layer_weights[layer]:
            self.residual = self.arena.take(self.w.e)
            self._begin(layer)
            return
        self._norm = self.arena.take(self.w.e)
        self._begin(layer)
        if self.options.kv_offload:
            self.residual = self.arena.take(self.w.e)  # else with the cache

    def _begin(self, layer: int) -> None:
        """Inputs of the first split, unless attention is in the next one."""
        self._take_positions()
        if self.options.kv_offload:
            self._take_indexes()
            self._take_mask(layer)

    def layer(self, il: int, is_in_ram: bool, has_cache_in_ram: bool) -> None:
        """One layer; without the feed-forward network of the last one, which is for few tokens."""
        normed = self._normed(il)
        queries = self._queries(il, is_in_ram, has_cache_in_ram, normed)
        attended = self._attended(il, queries, has_cache_in_ram)
        if il >= self.shape.hparams.n_layer - 1:
            return
        if self.shape.graph.is_parallel:
            self._parallel_network(il, is_in_ram, normed, attended)
        else:
            self._network(il, is_in_ram, attended)

    def _normed(self, il: int) -> Room:
        if self._norm:
            normed, self._norm = self._norm, None
            return normed
        has_norm = "attn_norm" in self.shape.layer_weights[il] or self.shape.graph.is_parallel
        return self.arena.take(self.w.e if has_norm else 0)

    def _weight(self, il: int, kind: str, is_in_ram: bool) -> Room:
        return self.arena.take(self.shape.layer_weights[il].get(kind, 0) if is_in_ram else 0)

    def _times(self, il: int, kind: str, is_in_ram: bool, size: int, *read: Room) -> Room:
        """A product with a weight, after which what it read is no longer needed."""
        weight = self._weight(il, kind, is_in_ram)
        found = self.arena.take(size)
        self.arena.free(weight, *read)
        return found

    def _next(self, size: int, *read: Room) -> Room:
        """A tensor that takes the place of others."""
        found = self.arena.take(size)
        self.arena.free(*read)
        return found

    def _widths(self, il: int) -> tuple[int, int, int]:
        hp = self.shape.hparams
        k, v = hp.k_head(hp.is_windowed[il]), hp.v_head(hp.is_windowed[il])
        return hp.n_head[il] * k, hp.n_head_kv[il] * k, hp.n_head_kv[il] * v

    def _queries(self, il: int, is_in_ram: bool, has_cache_in_ram: bool, normed: Room) -> Room:
        """The queries; keys and values are written to the cache and gone."""
        sizes = q, k, v = tuple(map(self.w.width, self._widths(il)))
        read = () if self.shape.graph.is_parallel else (normed,)
        if "attn_qkv" in self.shape.layer_weights[il]:
            queries, *others = self._fused(il, is_in_ram, sizes, read)
        elif self.shape.graph.architecture in _KEYS_BEFORE_VALUES:
            queries = self._projected(il, "attn_q", is_in_ram, q)
            others = [self._projected(il, "attn_k", is_in_ram, k), self._values(il, is_in_ram, v, *read)]
        elif is_in_ram and self._rope_weights and self._has_positions:
            # Their factors are weights too, so that the rotation begins a split, into which the next weight goes.
            product = self._times(il, "attn_q", is_in_ram, q)
            weight = self._weight(il, "attn_v", is_in_ram)
            queries = self._rotated(il, product, q)
            others = [self._rotated_values(il, self._next(v, weight), v)]
            others.insert(0, self._projected(il, "attn_k", is_in_ram, k, *read))
        else:
            queries = self._projected(il, "attn_q", is_in_ram, q)
            values = self._values(il, is_in_ram, v)
            others = [self._projected(il, "attn_k", is_in_ram, k, *read), values]
        if not has_cache_in_ram:
            self._take_indexes()
        self.arena.free(*others)
        return queries

    def _fused(self, il: int, is_in_ram: bool, sizes: tuple[int, ...], read: tuple[Room, ...]) -> list[Room]:
        weight = self._weight(il, "attn_qkv", is_in_ram)
        if not self._rope_weights:
            self._take_positions()
        product = self.arena.take(sum(sizes))
        self.arena.free(weight, *read)
        if self.shape.graph.architecture in _POSITIONS_ADDED:
            return [product]
        queries = self._rotated(il, None, sizes[0])
        return [queries, self._rotated(il, None, sizes[1], is_key=True), product]

    def _projected(self, il: int, kind: str, is_in_ram: bool, size: int, *read: Room) -> Room:
        """Queries or keys, with positions. These cannot take the place of the product, which is read through a view."""
        weight = self._weight(il, kind, is_in_ram)
        if not self._rope_weights and "attn_q_norm" not in self.shape.layer_weights[il]:
            self._take_positions()
        product = self.arena.take(size)
        self.arena.free(weight, *read)
        if self.shape.graph.architecture in _POSITIONS_ADDED:
            return product
        return self._rotated(il, product, size, is_key=kind == "attn_k")

    def _rotated(self, il: int, product: Room | None, size: int, is_key: bool = False) -> Room:
        if self._rope_weights:
            self._take_positions()
        found = self._next(size, *((product,) if product else ()))
        self._take_positions()
        return self._next(size, found) if self._is_rotated(il, self.options.cache_type_k) else found

    def _values(self, il: int, is_in_ram: bool, size: int, *read: Room) -> Room:
        return self._rotated_values(il, self._times(il, "attn_v", is_in_ram, size, *read), size)

    def _rotated_values(self, il: int, values: Room, size: int) -> Room:
        return self._next(size, values) if self._is_rotated(il, self.options.cache_type_v, True) else values

    def _is_rotated(self, il: int, cache_type: str, is_value: bool = False) -> bool:
        hp = self.shape.hparams
        head = hp.v_head() if is_value else hp.k_head()
        return is_quantized(cache_type) and head % _ROTATED_HEADS == 0

    def _attended(self, il: int, queries: Room, has_cache_in_ram: bool) -> Room:
        """What attention returns."""
        arena, w, hp = self.arena, self.w, self.shape.hparams
        _, k, v = self._widths(il)
        count = self.cells.window if hp.is_windowed[il] else self.cells.base
        cached = count * self.cells.streams
        caches = [(k, self.options.cache_type_k), (v, self.options.cache_type_v)]
        held = [arena.take(cached * row_bytes(*each)) for each in caches if has_cache_in_ram]
        self._take_mask(il)
        if self.residual is None:
            self.residual = arena.take(w.e)
        size = w.width(hp.n_head[il] * hp.v_head(hp.is_windowed[il]))
        if self.flash:
            converted = sum(width for width, cache_type in caches if cache_type != "f16")
            attended = arena.take(size + 2 * cached * converted * self.shape.graph.has_flash_attention)
            arena.free(queries, *held)
            return attended
        scores = arena.take(w.width(hp.n_head[il] * count))
        arena.free(queries, *held[:1])
        product = arena.take(size)
        arena.free(scores, *held[1:])
        return self._next(size, product)

    def _output(self, il: int, is_in_ram: bool, attended: Room) -> Room:
        if self._is_rotated(il, self.options.cache_type_v, True):
            hp = self.shape.hparams
            attended = self._next(self.w.width(hp.n_head[il] * hp.v_head(hp.is_windowed[il])), attended)
        return self._times(il, "attn_output", is_in_ram, self.w.e, attended)

    def _parallel_network(self, il: int, is_in_ram: bool, normed: Room, attended: Room) -> None:
        """Attention's output matrix comes after a network that reads what attention read."""
        assert self.residual is not None
        found = self._dense(il, is_in_ram, normed)
        self.arena.free(self.residual)
        self.arena.free(self._output(il, is_in_ram, attended))
        self.residual = found

    def _network(self, il: int, is_in_ram: bool, attended: Room) -> None:
        assert self.residual is not None
        residual = self._output(il, is_in_ram, attended)
        self.arena.free(self.residual)
        normed = self.arena.take(self.w.e)
        has_experts = "ffn_down_exps" in self.shape.layer_weights[il]
        found = (self._experts if has_experts else self._dense)(il, is_in_ram, normed)
        if self.shape.graph.architecture in _INTO_RESIDUAL:
            found, residual = residual, found
        self.arena.free(residual)
        self.residual = found

    def _dense(self, il: int, is_in_ram: bool, normed: Room, ending: str = "") -> Room:
        weights = self.shape.layer_weights[il]
        size = self.w.width(weights.get(FEED_FORWARD, self.shape.graph.ff)) if not ending else self.w.shared_ff
        if f"ffn_gate{ending}" in weights:
            gate = self._times(il, f"ffn_gate{ending}", is_in_ram, size)
            up = self._times(il, f"ffn_up{ending}", is_in_ram, size, normed)
            active = self._next(size, gate, up)
        elif self.shape.graph.is_gated:
            active = self._next(size, self._times(il, f"ffn_up{ending}", is_in_ram, 2 * size, normed))
        else:
            active = self._times(il, f"ffn_up{ending}", is_in_ram, size, normed)
        return self._times(il, f"ffn_down{ending}", is_in_ram, self.w.e, active)

    def _experts(self, il: int, is_in_ram: bool, normed: Room) -> Room:
        w, has_shared = self.w, self.shape.graph.shared_ff > 0
        read = () if has_shared else (normed,)
        if "ffn_gate_up_exps" in self.shape.layer_weights[il]:
            active = self._next(
                w.expert_ff, self._times(il, "ffn_gate_up_exps", is_in_ram, 2 * w.expert_ff)
            )
        else:
            gate = self._times(il, "ffn_gate_exps", is_in_ram, w.expert_ff)
            up = self._times(il, "ffn_up_exps", is_in_ram, w.expert_ff)
            active = self._next(w.expert_ff, gate, up)
        self.arena.free(*read)
        products = self._times(il, "ffn_down_exps", is_in_ram, w.expert_e, active)
        weighted = self.arena.take(w.expert_e)
        found = self._next(w.e, weighted, products)
        if has_shared:
            self.arena.free(self._dense(il, is_in_ram, normed, "_shexp"))
        return found

    def _take_positions(self) -> None:
        if not self._has_positions:
            self._has_positions = True
            self.arena.take(4 * self.w.tokens)

    def _take_indexes(self) -> None:
        """Where keys and values go in the cache. Without flash attention V is transposed: each value has an index."""
        if self._has_indexes:
            return
        self._has_indexes = True
        for width in (1, self.shape.v_width_max if self.options.flash_attn == "off" else 1):
            self.arena.take(8 * self.w.tokens * width)

    def _take_mask(self, il: int) -> None:
        is_windowed = self.shape.hparams.is_windowed[il]
        if is_windowed not in self._masks:
            self._masks.add(is_windowed)
            count = self.cells.window if is_windowed else self.cells.base
            self.arena.take(count * self.w.tokens * (2 if self.flash else 4))
